"""What identifies a result: the hash of its content, the commit of its code, the experiment it belongs to."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path


def content_hash(path: Path) -> str:
    """SHA-256 (hex) of a file, or of a folder's files by relative name and content."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for file_path in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file_path.relative_to(path).as_posix()}\0{content_hash(file_path)}\n".encode())
    return digest.hexdigest()


def git_commit() -> str:
    """The commit checked out, with `-dirty` after it if tracked files differ; `unknown` outside git."""
    try:
        commit = _git("rev-parse", "HEAD")
        return f"{commit}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def dvc_experiment() -> str:
    """The DVC experiment that this process runs in; empty outside `dvc exp run`."""
    return os.environ.get("DVC_EXP_NAME", "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()
