"""RecTools' models, trained in the environment of `peers/` (`make bench` makes it) on sequences of ours."""

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
from workloads import PARAMETERS

from tapestry.evaluation.metrics import ranking_metrics
from tapestry.evaluation.ranking import Integers, ScoreFunction, rank_targets
from tapestry.sequences.reader import Sequences

PEERS = Path(__file__).parent / "peers"
NAMES = ("sasrec", "hstu")
KS = (1, 10, 100)
# As it comes, glibc gives large blocks back to the system after every use, and RecTools' softmax over the catalogue
# spends half its time on getting them again.
_ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=16000000000"}


def case_of(sequences: Sequences) -> str:
    """What the models are compared on."""
    return f"{len(sequences.domains)} domains, {len(sequences.user_id):,} users, {sequences.items:,} items"


def export(sequences: Sequences, targets: Integers, file: Path) -> None:
    """Write the sequences, and the targets whose vectors are wanted, as `peers/train.py` reads them."""
    np.savez(
        file,
        item=sequences.item,
        offsets=sequences.offsets,
        split=sequences.split,
        targets=targets,
        items=np.array(sequences.items),
    )


def start_training(name: str, data: Path, report: Path, **more: object) -> subprocess.Popen[bytes]:
    """Train with our width, layers, heads, window and users a batch, and a softmax over the whole catalogue."""
    model, train = PARAMETERS.model, PARAMETERS.train
    settings: dict[str, object] = {
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
        "report": report,
        **more,
    }
    options = [text for key, value in settings.items() for text in (f"--{key}", str(value))]
    return subprocess.Popen([PEERS / ".venv/bin/python", PEERS / "train.py", *options], env=os.environ | _ALLOCATOR)


def finish_training(process: subprocess.Popen[bytes], report: Path) -> dict[str, Any]:
    """What a training reports, once it has ended."""
    if process.wait() != 0:
        raise SystemExit(f"{process.args!r} failed")
    figures: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return figures


def judge(sequences: Sequences, targets: Integers, query: Tensor, item: Tensor) -> dict[str, float]:
    """Ranking figures of vectors (targets, width) and (items, width), in the target domain's catalogue, seen items
    left out. What has no vector is scored below all that has one.
    """

    def chunks() -> Iterator[tuple[Integers, ScoreFunction]]:
        for first in range(0, len(targets), 256):
            places = np.arange(first, min(first + 256, len(targets)))
            yield places, lambda wanted, items: torch.nan_to_num(query[wanted] @ item[items].T, nan=-1e9)

    return ranking_metrics(rank_targets(sequences, targets, True, chunks()).rank, KS)
