"""What stops a checkout from running, and its mend: what killed processes left, and what is missing around it.

A finding with a `fix` is safe to mend by itself: it is about what no living process holds, and what DVC makes again.
"""

from __future__ import annotations

from pathlib import Path

from tapestry.doctor.finding import Finding
from tapestry.doctor.left import at_work, cut_files, dead_entries, detached_head, left_experiments, partial_folders
from tapestry.doctor.surroundings import environment, parameters, repository, store


def examine(root: Path) -> list[Finding]:
    """All that is wrong in the checkout `root`."""
    found = [*repository(root), *environment(root), *parameters(root), *dead_entries(root), *partial_folders(root)]
    found += store(root)
    workers = at_work(root)
    if workers:
        # What looks left may be a living process's, and a file that it is about to read is not to be taken away.
        working = f"DVC is at work here ({', '.join(workers)})"
        return [*found, Finding(working, "run this again afterwards: what it may hold isn't looked at", stops=False)]
    return [*found, *cut_files(root), *detached_head(root), *left_experiments(root)]
