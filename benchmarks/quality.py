"""Ranking quality beside RecTools' SASRec and HSTU on one split: python quality.py [FOLDER]

FOLDER holds the sequences, `data/sequences` by default. Settings are those of `throughput.py`. Our models train until
early stopping. The peers train in parallel for PEER_EPOCHS epochs (environment variable); an epoch takes minutes on two
cores. Their vectors after each epoch are written to `peers/vectors/`; existing vectors are evaluated without a new
training. Each model is evaluated on the test targets after its epoch with the best validation NDCG@10.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import report
from peer import KS, NAMES, PEERS, case_of, finish_training, rank_by_vectors, start_training
from workloads import PARAMETERS, model_settings, train_settings

from tapestry.baselines.rectools_models import export
from tapestry.core.splits import TEST, VALIDATION
from tapestry.evaluation.metrics import ranking_metrics
from tapestry.evaluation.scoring import rank_by_model
from tapestry.model.network import Recommender
from tapestry.sequences.reader import Sequences, read_sequences
from tapestry.training.loop import train

VECTORS = PEERS / "vectors"
PEER_EPOCHS = int(os.environ.get("PEER_EPOCHS", "20"))


def evaluate_ours(sequences: Sequences, name: str, whole: bool) -> dict[str, Any]:
    def metrics(model: Recommender, split: int) -> dict[str, float]:
        ranks = rank_by_model(model, sequences, sequences.targets(split), True, PARAMETERS.train.batch_users)
        return ranking_metrics(ranks.rank, KS)

    settings = train_settings(negatives=None)
    training = train(
        sequences,
        model_settings(whole),
        settings,
        lambda model: metrics(model, VALIDATION),
        lambda epoch: print(epoch, flush=True),
    )
    return _row(sequences, name, metrics(training.model, TEST), training.best.epoch, len(training.epochs))


def train_peers(sequences: Sequences, targets: np.ndarray[Any, np.dtype[np.int64]]) -> None:
    """Train the peers that have no vectors yet, and write their vectors after each epoch."""
    VECTORS.mkdir(exist_ok=True)
    data = VECTORS / "data.npz"
    export(sequences, targets, data)
    missing = [name for name in NAMES if not (VECTORS / name).exists()]
    threads = max(1, PARAMETERS.train.threads // max(1, len(missing)))
    reports = {name: VECTORS / f"{name}.json" for name in missing}
    processes = {
        name: start_training(name, data, path, epochs=PEER_EPOCHS, threads=threads, vectors=VECTORS / name)
        for name, path in reports.items()
    }
    for name, process in processes.items():
        finish_training(process, reports[name])


def evaluate_peer(sequences: Sequences, name: str) -> dict[str, Any]:
    validation, test = (sequences.targets(split) for split in (VALIDATION, TEST))
    figures = {}
    for file in VECTORS.joinpath(name).glob("*.npz"):
        with np.load(file) as saved:
            query, item = (torch.from_numpy(saved[part]) for part in ("query", "item"))
        first, last = query.split([len(validation), len(test)])
        figures[int(file.stem)] = (
            rank_by_vectors(sequences, validation, first, item),
            rank_by_vectors(sequences, test, last, item),
        )
    for epoch in sorted(figures):
        print(f"{name}, epoch {epoch}: " + ", ".join(f"{key} {value:.4f}" for key, value in figures[epoch][0].items()))
    best = max(sorted(figures), key=lambda epoch: figures[epoch][0]["ndcg_10"])
    return _row(sequences, name, figures[best][1], best, len(figures))


def _row(sequences: Sequences, name: str, figures: dict[str, float], best: int, epochs: int) -> dict[str, Any]:
    return {"case": case_of(sequences), "other": name, "epochs": epochs, "best_epoch": best, **figures}


def main(folder: Path) -> None:
    sequences = read_sequences(folder)
    train_peers(sequences, np.concatenate([sequences.targets(split) for split in (VALIDATION, TEST)]))
    rows = [evaluate_ours(sequences, "ours", True), evaluate_ours(sequences, "ours: HSTU + ALiBi", False)]
    rows += [evaluate_peer(sequences, name) for name in NAMES]
    report("quality", rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("data/sequences"))
