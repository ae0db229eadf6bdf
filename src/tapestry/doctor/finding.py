"""What the doctor found, and how it is mended."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tapestry.provenance.git import git


@dataclass(frozen=True)
class Finding:
    """Something wrong.

    Attributes:
        what: where, and what is wrong.
        mend: what a user can do, or what `fix` does.
        fix: mends it; None where that is for the user to decide.
        stops: whether runs fail because of it.
    """

    what: str
    mend: str
    fix: Callable[[], None] | None = None
    stops: bool = True


def try_git(root: Path, *arguments: str) -> str | None:
    """What git prints; None if it fails."""
    try:
        return git(root, *arguments).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
