"""A problem that `tapestry doctor` has found, and its fix."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tapestry.provenance.git import git


@dataclass(frozen=True)
class Finding:
    """A problem of a checkout.

    Attributes:
        what: the file or folder, and what is wrong.
        mend: what the user can do, or what `fix` does.
        fix: fixes it; None if the user has to decide.
        stops: whether runs fail because of it.
    """

    what: str
    mend: str
    fix: Callable[[], None] | None = None
    stops: bool = True


def try_git(root: Path, *arguments: str) -> str | None:
    """Return what git prints; None if it fails."""
    try:
        return git(root, *arguments).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
