"""Hashes that identify a result: of its content, and of the code that produced it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

CODE = ("src", "stages", "baselines", "dvc.yaml")
"""The code that affects a result; so do parameters, data and installed packages."""

_IGNORED = re.compile(r"(^|/)(__pycache__|\.venv(-rectools)?|\.[^/]*\.partial)/|\.pyc$")  # the patterns of .dvcignore


def content_hash(path: Path) -> str:
    """Hash a file, or a folder's files by relative name and content (SHA-256, hex)."""
    if path.is_file():
        return _file_hash(path, "sha256")
    digest = hashlib.sha256()
    for file_path in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file_path.relative_to(path).as_posix()}\0{content_hash(file_path)}\n".encode())
    return digest.hexdigest()


def dvc_md5(path: Path) -> str:
    """Compute the hash that DVC writes to dvc.lock: the MD5 of a file, or of a folder's list of names and MD5s.

    Files that .dvcignore excludes are left out of a folder's list.

    Source: https://dvc.org/doc/user-guide/project-structure/internal-files#directories
    """
    if path.is_file():
        return _file_hash(path, "md5")
    entries = [{"md5": dvc_md5(path / name), "relpath": name} for name in tracked_names(path)]
    return hashlib.md5(json.dumps(entries).encode(), usedforsecurity=False).hexdigest() + ".dir"


def tracked_names(folder: Path) -> list[str]:
    """List the relative names of a folder's files in order, without those that .dvcignore excludes."""
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return [name for name in names if not _IGNORED.search(name)]


def code_hash(root: Path = Path()) -> str:
    """Hash the code of a checkout: its package, its stages and dvc.yaml (SHA-256, hex)."""
    digest = hashlib.sha256()
    for name in CODE:
        if (root / name).exists():
            digest.update(f"{name}\0{dvc_md5(root / name)}\n".encode())
    return digest.hexdigest()


def _file_hash(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
