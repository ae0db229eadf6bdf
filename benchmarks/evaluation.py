"""Peak memory of ranking for growing numbers of users and items: python evaluation.py

Each case runs in a new process, because a process reports only its highest peak. The printed memory is the peak while
ranking minus the memory before it, which holds the model, the item table and the sequences.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path

import numpy as np
from harness import apart, peak_mib, report
from workloads import PARAMETERS, model_settings, random_sequences, shares

from tapestry.evaluation.scoring import rank_by_model
from tapestry.model.device import make_deterministic
from tapestry.model.network import Recommender

LENGTH = 32
CASES = ((2_000, 10_000), (2_000, 100_000), (2_000, 1_000_000), (500, 100_000), (8_000, 100_000), (32_000, 100_000))


def rank(users: int, items: int) -> tuple[float, float]:
    """Return seconds, and MiB of the peak above the memory before."""
    make_deterministic(7, PARAMETERS.train.threads)
    sequences = random_sequences(LENGTH, users, shares(5), items)
    model = Recommender(model_settings(True), items, 5)
    batch_users = PARAMETERS.evaluate.batch_users
    targets = sequences.offsets[1:] - 1
    rank_by_model(model, sequences, targets[: 2 * batch_users], True, batch_users)  # allocates the buffers of libraries
    before, started = _resident(), time.perf_counter()
    rank_by_model(model, sequences, np.ascontiguousarray(targets), True, batch_users)
    seconds = time.perf_counter() - started
    return seconds, peak_mib() - before


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    rows = []
    for users, items in CASES:
        seconds, peak = apart(rank, users, items)
        row = {"case": f"{users:,} targets, {items:,} items", "ours_s": seconds, "peak_mib": peak}
        print(row, flush=True)
        rows.append(row)
    report("evaluation", rows)


if __name__ == "__main__":
    main()
