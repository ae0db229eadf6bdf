"""What identifies a result: the hash of its content, and the hash of the code that made it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

CODE = ("src", "stages", "dvc.yaml")
"""What decides a result beside parameters, data and installed packages."""

_IGNORED = re.compile(r"(^|/)(__pycache__|\.venv|\.[^/]*\.partial)/|\.pyc$")  # as .dvcignore has it


def content_hash(path: Path) -> str:
    """SHA-256 (hex) of a file, or of a folder's files by relative name and content."""
    if path.is_file():
        return _file_hash(path, "sha256")
    digest = hashlib.sha256()
    for file_path in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file_path.relative_to(path).as_posix()}\0{content_hash(file_path)}\n".encode())
    return digest.hexdigest()


def dvc_md5(path: Path) -> str:
    """What DVC writes for a file or folder in dvc.lock: a file's MD5; a folder's is of its list of names and MD5s.

    What .dvcignore names is left out.

    Source: https://dvc.org/doc/user-guide/project-structure/internal-files#directories
    """
    if path.is_file():
        return _file_hash(path, "md5")
    entries = [{"md5": dvc_md5(path / name), "relpath": name} for name in tracked_names(path)]
    return hashlib.md5(json.dumps(entries).encode(), usedforsecurity=False).hexdigest() + ".dir"


def tracked_names(folder: Path) -> list[str]:
    """The names of a folder's files, relative to it and in order, without what .dvcignore names."""
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return [name for name in names if not _IGNORED.search(name)]


def code_hash(root: Path = Path()) -> str:
    """SHA-256 (hex) of the code in a checkout: its package, its stages and dvc.yaml."""
    digest = hashlib.sha256()
    for name in CODE:
        if (root / name).exists():
            digest.update(f"{name}\0{dvc_md5(root / name)}\n".encode())
    return digest.hexdigest()


def _file_hash(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
