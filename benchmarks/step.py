"""The time of a training step, and DDSR's share of it, against HSTU + ALiBi and against DDSR by a plain gather.

"Ours" is the paper's model. "Side by side" is that of the default recipe: a layer of it beside a layer of HSTU + ALiBi.
Each contender trains two batches of 16,384 tokens, on a GPU of 131,072 tokens in bf16, including their preparation.
All parameters are the defaults except the window, the width, `state_dim`, the users a batch and the negatives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

from harness import against, interleaved, report
from workloads import PRECISION, TOKENS, model_settings, random_sequences, shares, train_settings, trainer_of

from tapestry.model import ddsr
from tapestry.model.kernels.domain_states import attend_states_reference

LENGTHS = (64, 1024, 4096)
BESIDE = {"attention": "intra_and_full", "layers": 1, "target_state": True}
DOMAINS, ITEMS, WIDTH = 5, 50_000, 128
BATCHES, ROUNDS = 2, 5


def contender(length: int, whole: bool, **changes: object) -> Callable[[], object]:
    users = TOKENS // length
    sequences = random_sequences(length, BATCHES * users, shares(DOMAINS), ITEMS)
    model = model_settings(whole, window=length, width=WIDTH, state_dim=WIDTH, **changes)
    trainer = trainer_of(sequences, model, train_settings(batch_users=users, negatives=512))
    return lambda: trainer.run("pass")


@contextmanager
def plain_gather() -> Iterator[None]:
    """DDSR by its reference, which gathers keys and values to (N, D, H, E) and leaves the gradients to autograd."""
    with patch.object(ddsr, "attend_states", attend_states_reference):
        yield


def main() -> None:
    rows = []
    for length in LENGTHS:
        run = contender(length, whole=True)

        def with_gather(run: Callable[[], object] = run) -> None:
            with plain_gather():
                run()

        contenders = {
            "ours": run,
            "HSTU + ALiBi": contender(length, whole=False),
            "side by side": contender(length, whole=True, **BESIDE),
            "side by side without DDSR": contender(length, whole=True, **BESIDE, ddsr=False),
            "ours without DDSR": contender(length, whole=True, ddsr=False),
            "ours, DDSR by a plain gather": with_gather,
        }
        seconds = {name: taken / BATCHES for name, taken in interleaved(contenders, ROUNDS, f"step S={length}").items()}
        bare, ours = seconds["ours without DDSR"], seconds["ours"]
        gathered = seconds["ours, DDSR by a plain gather"]
        case = f"S={length} D={DOMAINS} balanced {PRECISION}"
        rate = TOKENS / ours
        rows += [
            against(case, "HSTU + ALiBi", ours, seconds["HSTU + ALiBi"], tokens_per_second=rate),
            *(
                against(f"{case}, {name}", "HSTU + ALiBi", seconds[name], seconds["HSTU + ALiBi"])
                for name in ("side by side", "side by side without DDSR")
            ),
            against(
                case,
                "DDSR by a plain gather",
                ours,
                gathered,
                share_of_ddsr=1 - bare / ours,
                share_of_other=1 - bare / gathered,
            ),
        ]
    report("step", rows)
    print(f"\na step: {TOKENS} tokens, width {WIDTH}, 2 layers, 512 negatives a domain, {ITEMS} items")


if __name__ == "__main__":
    main()
