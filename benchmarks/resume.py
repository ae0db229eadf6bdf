"""What resuming costs: python resume.py

A checkpoint is written at least 30 s after the one before it, and later if writing takes more than 2 % of that time.
"Share of the time" is what it takes of the time between two. "Resumed after" is what a resumed training does
before its first step beyond what a new one does: it reads, checks and sets the state.
"""

from __future__ import annotations

import copy
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import report
from workloads import model_settings, random_sequences, shares, train_settings, trainer_of

from tapestry.training.checkpoints import Checkpoints
from tapestry.training.loop import Progress

ITEMS = (15_000, 1_000_000)


def row_of(items: int, folder: Path) -> dict[str, Any]:
    sequences = random_sequences(20, 512, shares(5), items)
    settings = train_settings(batch_users=128, device="cpu")
    trainer = trainer_of(sequences, model_settings(True), settings)
    checkpoints = Checkpoints(folder, {"items": items})
    trainer.run("steps")
    progress = Progress(best_weights=copy.deepcopy(trainer.model.state_dict()))
    started = time.perf_counter()
    checkpoints.write({"phase": "fit", "passes": 1, "progress": progress.state(), "trainer": trainer.state()})
    written = time.perf_counter() - started
    again = trainer_of(sequences, model_settings(True), settings)
    started = time.perf_counter()
    state = Checkpoints(folder, {"items": items}).read_latest()
    assert state is not None
    again.load_state(state["trainer"])
    resumed = time.perf_counter() - started
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
    pause = checkpoints._pause
    return {
        "items": items,
        "checkpoint, MiB": size,
        "written in, s": written,
        "time between two, s": pause,
        "share of the time": written / (pause + written),
        "resumed after, s": resumed,
    }


if __name__ == "__main__":
    rows = []
    for number in ITEMS:
        with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as temporary:  # on the disk of the checkout
            rows.append(row_of(number, Path(temporary)))
    report(Path(__file__).stem, rows)
