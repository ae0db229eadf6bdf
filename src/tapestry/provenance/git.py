"""What git says of a checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tapestry.provenance.hashes import CODE


def git(root: Path, *arguments: str) -> str:
    """What git prints in a checkout.

    Raises:
        CalledProcessError: git failed; with what it said in `stderr`.
        OSError: there is no git.
    """
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def git_commit() -> str:
    """The commit checked out, with `-dirty` after it if code differs from it; `unknown` outside git.

    Parameters, dvc.lock and metrics may differ, as they do in an experiment: a row has those itself.
    """
    try:
        commit = git(Path(), "rev-parse", "HEAD").strip()
        return f"{commit}-dirty" if git(Path(), "status", "--porcelain", "--", *CODE) else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
