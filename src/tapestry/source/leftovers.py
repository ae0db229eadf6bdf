"""Removal of the data of domains and baselines that params.yaml no longer names."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

_BY_DOMAIN = ("raw", "interactions", "quarantine", "counts")
"""The folders of `data/` with one file or folder for each domain."""
_BY_BASELINE = ("baselines",)
"""The same for each baseline."""


def remove_others(data: Path, domains: Collection[str], baselines: Collection[str]) -> None:
    """Remove from the folder `data` every file and folder of a domain or baseline that is not among these.

    The stages sessionize and figures depend on whole folders, such as `data/interactions`. A file of a domain that was
    removed from `source.domains` would count as their input. DVC's cache still has the removed file.
    """
    for folders, names in ((_BY_DOMAIN, domains), (_BY_BASELINE, baselines)):
        for path in (path for folder in folders for path in (data / folder).glob("*")):
            if not path.name.startswith(".") and path.name.partition(".")[0] not in names:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
