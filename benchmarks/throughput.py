"""Training throughput and quality against RecTools' SASRec and HSTU on one split: python throughput.py [FOLDER]

FOLDER holds the sequences, `data/sequences` by default. The peers run in the environment of `peers/` (`make bench`
makes it). All train with the same width, layers, heads, window, users a batch and a softmax over all candidates:
theirs over the whole catalogue, ours over the target's domain, which is what each ranks for. Every model's ranking is
judged alike: in the target domain's whole catalogue, seen items left out.

Throughput is tokens a second, of a pass of ours and of a few batches of theirs, turn about; a token is a position
with a target. Quality is that of whole trainings: ours until it stops, theirs of PEER_EPOCHS epochs, each of which
takes minutes on two cores (the environment variable; 0 leaves their quality out).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import against, report
from torch import Tensor
from workloads import PARAMETERS, model_config, train_config, trainer_of

from tapestry.data.sequences import TEST, VALIDATION, Sequences, read_sequences
from tapestry.evaluation.metrics import ranking_metrics
from tapestry.evaluation.ranking import Integers, Score, rank_targets
from tapestry.evaluation.scoring import rank_by_model
from tapestry.model.network import Recommender
from tapestry.training.loop import Training, train

PEERS = Path(__file__).parent / "peers"
TURNS = int(os.environ.get("TURNS", "5"))
PEER_BATCHES = 6
PEER_EPOCHS = int(os.environ.get("PEER_EPOCHS", "20"))


def train_ours(sequences: Sequences, whole: bool, epochs: int) -> Training:
    targets = sequences.targets(VALIDATION)

    def validate(model: Recommender) -> dict[str, float]:
        return ranking_metrics(rank_by_model(model, sequences, targets, True, 256).rank, [1, 10, 100])

    config = train_config(epochs=epochs, negatives=None)
    return train(sequences, model_config(whole), config, validate, lambda epoch: print(epoch, flush=True))


def train_peer(name: str, data: Path, out: Path, **amount: int) -> dict[str, Any]:
    model, train = PARAMETERS.model, PARAMETERS.train
    settings = {
        "data": data,
        "model": name,
        "width": model.width,
        "layers": model.layers,
        "heads": model.heads,
        "window": model.window,
        "batch-users": train.batch_users,
        "loss": "softmax",
        "threads": train.threads,
        "seed": train.seed,
        "out": out,
        **amount,
    }
    options = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    subprocess.run([PEERS / ".venv/bin/python", PEERS / "train.py", *options], check=True)
    figures: dict[str, Any] = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    return figures


def rank_peer(sequences: Sequences, out: Path) -> dict[str, float]:
    """The peer's ranking of the test targets. What it can't score, it scores below all that it can."""
    with np.load(out) as saved:
        query, item = (torch.from_numpy(saved[name]) for name in ("query", "item"))

    def chunks() -> Iterator[tuple[Integers, Score]]:
        for first in range(0, len(targets), 256):
            places = np.arange(first, min(first + 256, len(targets)))
            yield places, lambda wanted, items: _scores(query[wanted], item[items])

    targets = sequences.targets(TEST)
    return ranking_metrics(rank_targets(sequences, targets, True, chunks()).rank, [10, 100])


def _scores(query: Tensor, item: Tensor) -> Tensor:
    return torch.nan_to_num(query @ item.T, nan=-1e9)


def rank_ours(sequences: Sequences, model: Recommender) -> dict[str, float]:
    return ranking_metrics(rank_by_model(model, sequences, sequences.targets(TEST), True, 256).rank, [10, 100])


def main(folder: Path) -> None:
    sequences = read_sequences(folder)
    trainers = {
        name: trainer_of(sequences, model_config(whole), train_config(negatives=None))
        for name, whole in (("ours", True), ("ours: HSTU + ALiBi", False))
    }
    rates: dict[str, list[float]] = {name: [] for name in (*trainers, "sasrec", "hstu")}
    quality: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        data, out = Path(temporary, "data.npz"), Path(temporary, "out.npz")
        np.savez(
            data,
            item=sequences.item,
            offsets=sequences.offsets,
            split=sequences.split,
            targets=sequences.targets(TEST),
            items=np.array(sequences.items),
        )
        for turn in range(TURNS):
            for name, trainer in trainers.items():
                passed = trainer.run(f"{name}, turn {turn + 1}")
                rates[name].append(passed.tokens / passed.seconds)
            for name in ("sasrec", "hstu"):
                # Of two epochs the second is timed: the first has what a process does once.
                figures = train_peer(name, data, out, epochs=2, batches=PEER_BATCHES)
                rates[name].append(figures["tokens"] / figures["seconds"][1])
            print(
                f"turn {turn + 1} of {TURNS}: " + ", ".join(f"{n} {r[-1]:,.0f} tokens/s" for n, r in rates.items()),
                flush=True,
            )
        for name, whole in (("ours", True), ("ours: HSTU + ALiBi", False)):
            training = train_ours(sequences, whole, PARAMETERS.train.epochs)
            quality[name] = rank_ours(sequences, training.model) | {"epochs": len(training.epochs)}
        for name in ("sasrec", "hstu") if PEER_EPOCHS else ():
            figures = train_peer(name, data, out, epochs=PEER_EPOCHS)
            quality[name] = rank_peer(sequences, out) | {"epochs": figures["epochs"]}
    report("throughput", [_row(name, rates, quality, sequences) for name in rates])


def _row(
    name: str, rates: dict[str, list[float]], quality: dict[str, dict[str, float]], sequences: Sequences
) -> dict[str, Any]:
    ours, other = (statistics.median(rates[key]) for key in ("ours", name))
    case = f"{len(sequences.domains)} domains, {len(sequences.user_id):,} users, {sequences.items:,} items"
    judged = {key: quality[name][key] for key in ("epochs", "hr_10", "hr_100", "ndcg_100", "mrr") if name in quality}
    return against(f"{case}; 100,000 tokens", name, 100_000 / ours, 100_000 / other, tokens_per_second=other, **judged)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("data/sequences"))
