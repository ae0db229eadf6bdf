"""checksums.json: size and hash of each file that was downloaded, by its address, for you to commit."""

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


def digest_of(path: Path) -> Digest:
    """Size and hash of the file, with a bar on terminals."""
    total = path.stat().st_size
    sha256 = hashlib.sha256()
    # Not hashlib.file_digest: no bar can follow it.
    with path.open("rb") as reader, bytes_bar(f"{path.name}: sha256", 0, total) as bar:
        while chunk := reader.read(_CHUNK):
            sha256.update(chunk)
            bar.update(len(chunk))
    return Digest(total, sha256.hexdigest())


def bytes_bar(name: str, done: int, total: int | None) -> tqdm:
    """Progress in bytes of `total`, from `done`."""
    # disable=None: no bar where the output is not a terminal.
    return tqdm(desc=name, initial=done, total=total, unit="B", unit_scale=True, disable=None, leave=False)


def read_record(record: Path) -> dict[str, Digest]:
    """{url: digest}; none if there is no such file.

    Raises:
        TapestryError: it is no record of downloads.
    """
    try:
        return {url: _entry(entry) for url, entry in json.loads(record.read_text(encoding="utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise TapestryError(f"{record}: not a record of downloads ({error}). Restore it as git has it") from error


def _entry(entry: Any) -> Digest:
    digest = Digest(**entry)
    if type(digest.bytes) is not int or digest.bytes < 1 or not re.fullmatch(r"[0-9a-f]{64}", digest.sha256):
        raise ValueError(f"no size and sha256 of a file: {str(entry)[:100]}")
    return digest


def enter(record: Path, url: str, digest: Digest) -> Digest:
    """Add what was downloaded, if there is no entry yet; return what the entry is."""
    with FileLock(f"{record}.lock"):
        entries = read_record(record)
        if url not in entries:
            entries[url] = digest
            write_json(record, {key: dataclasses.asdict(entries[key]) for key in sorted(entries)})
        return entries[url]


def told(digest: Digest) -> str:
    return f"{digest.bytes} bytes, sha256 {digest.sha256}"
