"""Removal of the data of domains that `source.domains` no longer names."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

_FOLDERS_BY_DOMAIN = ("raw", "interactions", "quarantine", "counts")
"""The folders of `data/` with one file or folder for each domain."""


def remove_other_domains(data: Path, domains: Collection[str]) -> None:
    """Remove from the folder `data` every file and folder of a domain that is not in `domains`.

    The stage sessionize depends on whole folders, such as `data/interactions`. A file of a domain that was removed
    from `source.domains` would count as its input. DVC's cache still has the removed file.
    """
    for path in (path for name in _FOLDERS_BY_DOMAIN for path in (data / name).glob("*")):
        if not path.name.startswith(".") and path.name.partition(".")[0] not in domains:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
