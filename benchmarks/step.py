"""A whole training pass, and what DDSR takes of it, against HSTU + ALiBi and DDSR by a plain gather.

Each contender trains two batches of 16,384 tokens, their preparation included, with the default parameters but for
the window and the width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from harness import against, interleaved, report
from torch import Tensor
from workloads import TOKENS, model_settings, random_sequences, shares, train_settings, trainer_of

from tapestry.model.ddsr import DomainStateAttention
from tapestry.model.kernels.domain_states import States

LENGTHS = (64, 1024, 4096)
DOMAINS, ITEMS, WIDTH = 5, 50_000, 128
BATCHES, ROUNDS = 2, 5


def contender(length: int, whole: bool, **changes: object) -> Callable[[], object]:
    users = TOKENS // length
    sequences = random_sequences(length, BATCHES * users, shares(DOMAINS), ITEMS)
    model = model_settings(whole, window=length, width=WIDTH, state_dim=WIDTH, **changes)
    trainer = trainer_of(sequences, model, train_settings(batch_users=users, negatives=512))
    return lambda: trainer.run("pass")


def gathered_states(self: DomainStateAttention, hidden_NK: Tensor, states: States) -> Tensor:
    """DDSR as one would first write it: keys and values gathered to (N, D, C), autograd does the rest."""
    domains, tokens = states.last_DN.shape
    q_NHE, k_NHE, v_NHE = self.project(hidden_NK).view(tokens, 3, self.heads, -1).unbind(1)
    index = states.last_DN.T.flatten()
    k_NDHE, v_NDHE = (x.index_select(0, index).unflatten(0, (tokens, domains)) for x in (k_NHE, v_NHE))
    score_NDH = (q_NHE[:, None] * k_NDHE).sum(-1) / q_NHE.shape[-1] ** 0.5
    p_NDH = torch.softmax(score_NDH.masked_fill(states.none_ND[:, :, None], float("-inf")), 1)
    output: Tensor = self.output((p_NDH[..., None] * v_NDHE).sum(1).flatten(1))
    return output


@contextmanager
def plain_gather() -> Iterator[None]:
    with patch.object(DomainStateAttention, "forward", gathered_states):
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
            "ours without DDSR": contender(length, whole=True, ddsr=False),
            "ours, DDSR by a plain gather": with_gather,
        }
        seconds = {name: taken / BATCHES for name, taken in interleaved(contenders, ROUNDS, f"step S={length}").items()}
        bare, ours = seconds["ours without DDSR"], seconds["ours"]
        gathered = seconds["ours, DDSR by a plain gather"]
        case = f"S={length} D={DOMAINS} balanced fp32"
        rate = TOKENS / ours
        rows += [
            against(case, "HSTU + ALiBi", ours, seconds["HSTU + ALiBi"], tokens_per_second=rate),
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
