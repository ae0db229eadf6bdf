"""Examine a checkout for what stops it from running: leftovers of killed processes, and missing requirements.

A finding with a `fix` is safe to fix automatically: no living process uses what it changes, and DVC can recreate it.
"""

from __future__ import annotations

from pathlib import Path

from tapestry.doctor.environment import parameters, python_environment, repository, store
from tapestry.doctor.finding import Finding
from tapestry.doctor.leftovers import (
    detached_head,
    killed_experiments,
    partial_folders,
    running_dvc,
    stale_lock_entries,
    truncated_files,
)


def examine(root: Path) -> list[Finding]:
    """List all problems of the checkout `root`."""
    found = [
        *repository(root),
        *python_environment(root),
        *parameters(root),
        *stale_lock_entries(root),
        *partial_folders(root),
        *store(root),
    ]
    workers = running_dvc(root)
    if workers:
        # What looks like a leftover may belong to a living process, and must not be removed before it is read.
        what = f"DVC is running here ({', '.join(workers)})"
        mend = "run this again when it has ended: files that it may be using aren't examined"
        return [*found, Finding(what, mend, stops=False)]
    return [*found, *truncated_files(root), *detached_head(root), *killed_experiments(root)]
