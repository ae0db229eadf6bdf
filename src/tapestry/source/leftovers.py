"""What the data folders hold of domains that `source.domains` no longer names."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

_BY_DOMAIN = ("raw", "interactions", "quarantine", "counts")
"""The folders of `data/` with one file or folder a domain."""


def remove_other_domains(data: Path, domains: Collection[str]) -> None:
    """Remove from `data` what belongs to a domain that is not one of `domains`.

    sessionize depends on whole folders, such as `data/interactions`: a file that an earlier choice of domains left
    there would count as its input. DVC's cache still has the file.
    """
    for left in (path for name in _BY_DOMAIN for path in (data / name).glob("*")):
        if not left.name.startswith(".") and left.name.partition(".")[0] not in domains:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
