"""checksums.json: URL, size and SHA-256 of every downloaded file, to be committed to version control."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from tapestry.core.atomic import write_json
from tapestry.core.errors import TapestryError

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Digest:
    """Size and hash of a file."""

    bytes: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.bytes} bytes, sha256 {self.sha256}"


def digest_of(path: Path) -> Digest:
    """Compute the size and hash of a file. On a terminal, show a progress bar."""
    total = path.stat().st_size
    sha256 = hashlib.sha256()
    # hashlib.file_digest reads the file in one call, so it can't update a progress bar.
    with path.open("rb") as reader, progress_bar(f"{path.name}: sha256", 0, total) as bar:
        while chunk := reader.read(_CHUNK):
            sha256.update(chunk)
            bar.update(len(chunk))
    return Digest(total, sha256.hexdigest())


def progress_bar(name: str, done: int, total: int | None) -> tqdm:
    """Make a progress bar that counts bytes, starts at `done` and ends at `total`."""
    # disable=None: no bar where the output is not a terminal.
    return tqdm(desc=name, initial=done, total=total, unit="B", unit_scale=True, disable=None, leave=False)


def read_record(record: Path) -> dict[str, Digest]:
    """Read a record of downloads as {url: digest}; empty if the file doesn't exist.

    Raises:
        TapestryError: the file isn't a record of downloads.
    """
    try:
        return {url: _parse_entry(entry) for url, entry in json.loads(record.read_text(encoding="utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise TapestryError(f"{record}: not a record of downloads ({error}). Restore it from git") from error


def _parse_entry(entry: Any) -> Digest:
    digest = Digest(**entry)
    if type(digest.bytes) is not int or digest.bytes < 1 or not re.fullmatch(r"[0-9a-f]{64}", digest.sha256):
        raise ValueError(f"expected a size and a sha256, got {str(entry)[:100]}")
    return digest


def record_digest(record: Path, url: str, digest: Digest) -> Digest:
    """Add an entry for `url` if the record has none, and return the entry that the record then has."""
    with FileLock(f"{record}.lock"):
        entries = read_record(record)
        if url not in entries:
            entries[url] = digest
            write_json(record, {key: dataclasses.asdict(entries[key]) for key in sorted(entries)})
        return entries[url]
