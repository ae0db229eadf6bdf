"""The time of a training epoch of the default recipe, the paper's model and HSTU + ALiBi: python epoch.py [FOLDER]

FOLDER holds the sequences, `data/sequences` by default. The second data set is random: a million items in 5 domains,
and histories of 20 tokens. An epoch is one pass over the training tokens, with the preparation of its batches. The
default recipe has auxiliary targets, the two others have none, and two layers; all have the default width, batch and
negatives. On CUDA the matrix products are in bf16, and one more contender is the default recipe in fp32.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from harness import against, interleaved, report
from peer import case_of
from workloads import PARAMETERS, PRECISION, model_settings, random_sequences, shares, train_settings, trainer_of

from tapestry.sequences.batches import trained_users
from tapestry.sequences.reader import Sequences, read_sequences

ITEMS, USERS, LENGTH, DOMAINS = 1_000_000, 25_000, 20, 5
ROUNDS = 3


def rows_of(name: str, sequences: Sequences) -> list[dict[str, object]]:
    default = dataclasses.replace(PARAMETERS.train, precision=PRECISION)
    trainers = {
        "the paper's model": trainer_of(sequences, model_settings(True), train_settings()),
        "HSTU + ALiBi": trainer_of(sequences, model_settings(False), train_settings()),
        "the default recipe": trainer_of(sequences, PARAMETERS.model, default),
    }
    if PARAMETERS.train.precision != PRECISION:
        trainers["the default recipe in fp32"] = trainer_of(sequences, PARAMETERS.model, PARAMETERS.train)
    contenders = {model: lambda trainer=trainer: trainer.run("epoch") for model, trainer in trainers.items()}
    seconds = interleaved(contenders, ROUNDS, name)
    users = trained_users(sequences)
    tokens = int((sequences.train_length[users] - 1).clip(max=PARAMETERS.model.window).sum())
    ours = seconds["the paper's model"]
    return [
        against(f"{name} {PRECISION}", model, ours, taken, tokens_per_second=tokens / taken)
        for model, taken in seconds.items()
    ]


def main(folder: Path) -> None:
    given = read_sequences(folder)
    random = random_sequences(LENGTH, USERS, shares(DOMAINS), ITEMS)
    report("epoch", rows_of(case_of(given), given) + rows_of(f"{ITEMS:,} random items", random))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("data/sequences"))
