"""RecTools' models, trained on our sequences in the environment that `make peers` creates."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from workloads import LAYERS, PARAMETERS

from tapestry.baselines.rectools_models import ALLOCATOR, SCRIPT, rectools_python
from tapestry.core.arrays import Integers
from tapestry.evaluation.metrics import ranking_metrics
from tapestry.evaluation.ranking import ScoreFunction, rank_targets
from tapestry.sequences.reader import Sequences

PEERS = Path(__file__).parent / "peers"  # scripts of that environment
NAMES = ("sasrec", "hstu")
KS = (1, 10, 100)


def case_of(sequences: Sequences) -> str:
    """Return the size of the data that the models are compared on, as text."""
    return f"{len(sequences.domains)} domains, {len(sequences.user_id):,} users, {sequences.items:,} items"


def start_training(name: str, data: Path, report: Path, **more: object) -> subprocess.Popen[bytes]:
    """Start a training with our width, layers, heads, window and batch size, and a softmax over the whole catalogue."""
    model, train = PARAMETERS.model, PARAMETERS.train
    settings: dict[str, object] = {
        "data": data,
        "model": name,
        "width": model.width,
        "layers": LAYERS,
        "heads": model.heads,
        "window": model.window,
        "batch-users": train.batch_users,
        "loss": "softmax",
        "threads": train.threads,
        "seed": train.seed,
        "report": report,
        **more,
    }
    options = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    return subprocess.Popen([rectools_python(), "-P", SCRIPT, *options], env=os.environ | ALLOCATOR)


def finish_training(process: subprocess.Popen[bytes], report: Path) -> dict[str, Any]:
    """Wait for the end of a training and return its report."""
    if process.wait() != 0:
        raise SystemExit(f"{process.args!r} failed")
    figures: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return figures


def rank_by_vectors(sequences: Sequences, targets: Integers, query: Tensor, item: Tensor) -> dict[str, float]:
    """Compute ranking metrics of vectors (targets, width) and (items, width).

    A target is ranked among the items of its domain, without seen items. An item without a vector (NaN) ranks last.
    """

    def chunks() -> Iterator[tuple[Integers, ScoreFunction]]:
        for first in range(0, len(targets), 256):
            chunk = np.arange(first, min(first + 256, len(targets)))
            yield chunk, lambda index, items: torch.nan_to_num(query[index] @ item[items].T, nan=-1e9)

    return ranking_metrics(rank_targets(sequences, targets, True, chunks()).rank, KS)
