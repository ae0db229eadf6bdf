"""Growth of time with the length of histories, the number of items and the number of domains, as fitted exponents."""

from __future__ import annotations

from typing import Any

from attention import WIDTH
from attention import contender as attention_contender
from harness import exponent, interleaved, report
from workloads import TOKENS, model_settings, random_batch, random_sequences, shares, train_settings, trainer_of

from tapestry.model.attention import choose_kernel
from tapestry.model.device import choose_device, make_deterministic

LENGTHS = (512, 1024, 2048, 4096, 8192)
ITEMS = (10_000, 50_000, 200_000, 1_000_000)
DOMAINS = (2, 4, 8, 16, 32)
ROUNDS = 5


def rows_of(what: str, sizes: tuple[int, ...], seconds: dict[str, float]) -> list[dict[str, Any]]:
    """Return one row a size, and one with the exponent."""
    times = list(seconds.values())
    rows: list[dict[str, Any]] = [
        {"case": f"{what}={size}", "ours_s": time, "over_first": time / times[0]}
        for size, time in zip(sizes, times, strict=True)
    ]
    return [*rows, {"case": f"{what}, exponent", "ours_s": times[-1], "exponent": exponent(sizes, times)}]


def main() -> None:
    device = choose_device("auto")
    make_deterministic(7, train_settings().threads)
    kernel = choose_kernel("auto", device, WIDTH)
    rows: list[dict[str, Any]] = []
    for intra, name in ((True, "attention within 5 domains"), (False, "dense attention")):
        contenders = {
            str(length): attention_contender(random_batch(length, shares(5)), kernel, intra, device)
            for length in LENGTHS
        }
        rows += rows_of(f"{name} S", LENGTHS, interleaved(contenders, ROUNDS, f"{name}, growing S"))
    contenders = {
        str(domains): attention_contender(random_batch(2048, shares(domains)), kernel, True, device, domains)
        for domains in DOMAINS
    }
    rows += rows_of("attention S=2048 D", DOMAINS, interleaved(contenders, ROUNDS, "growing D"))
    trainers = {
        str(domains): trainer_of(
            random_sequences(256, 64, shares(domains), 50_000),
            model_settings(True, window=256),
            train_settings(batch_users=64, negatives=512),
        )
        for domains in DOMAINS
    }
    steps = {name: (lambda trainer=trainer: trainer.run("pass")) for name, trainer in trainers.items()}
    rows += rows_of("step S=256 D", DOMAINS, interleaved(steps, ROUNDS, "step, growing D"))
    trainers = {
        str(items): trainer_of(
            random_sequences(64, 256, shares(5), items),
            model_settings(True),
            train_settings(batch_users=128, negatives=512),
        )
        for items in ITEMS
    }
    steps = {name: (lambda trainer=trainer: trainer.run("pass")) for name, trainer in trainers.items()}
    rows += rows_of("step S=64 items", ITEMS, interleaved(steps, ROUNDS, "step, growing catalogue"))
    report("growth", rows)
    print(f"\nattention: {TOKENS} tokens a pass; medians of {ROUNDS} rounds")


if __name__ == "__main__":
    main()
