"""Ask git about a checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tapestry.core.errors import one_line
from tapestry.provenance.hashes import CODE


def git(root: Path, *arguments: str) -> str:
    """Run git in a checkout, and return what it prints.

    Raises:
        CalledProcessError: git failed; `stderr` has its message.
        OSError: git isn't installed.
    """
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def git_message(error: OSError | subprocess.CalledProcessError) -> str:
    """Return the message of an error that `git` raised, on one line."""
    return one_line((getattr(error, "stderr", "") or str(error)).strip())


def git_commit(root: Path = Path()) -> str:
    """Return a checkout's commit, with `-dirty` appended if code has uncommitted changes; `unknown` outside git.

    Parameters, dvc.lock and metrics may differ from the commit, as in an experiment: each run records them itself.
    """
    try:
        commit = git(root, "rev-parse", "HEAD").strip()
        return f"{commit}-dirty" if git(root, "status", "--porcelain", "--", *CODE) else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
