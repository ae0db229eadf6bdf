"""A partial download: the bytes received so far, <name>.part, and the version of the file they belong to.

The version is in the sidecar <name>.part.json. Another process, or another user, may have written both files. So this
module trusts only a regular file with a valid sidecar, and never writes through a link.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tapestry.core.atomic import write_json

_MAX_SIDECAR_BYTES = 1 << 16


@dataclass(frozen=True)
class Version:
    """The version of a remote file that a partial download is the beginning of."""

    url: str
    validator: str | None
    """ETag or Last-Modified, for the header If-Range; None if the server gives none that can be used."""
    total: int | None
    """Bytes of the whole file; None if the server doesn't say."""


class PartialDownload:
    """The partial download of the file `target`."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self.sidecar = target.with_name(f"{target.name}.part.json")
        self.lock = target.with_name(f"{target.name}.part.lock")

    def size(self) -> int:
        """Return the bytes received so far; 0 if `path` is missing or isn't a regular file."""
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return 0
        return found.st_size if stat.S_ISREG(found.st_mode) else 0

    def resume_point(self, url: str) -> tuple[int, Version | None]:
        """Return the byte offset to resume from and the version to ask for; (0, None) to start from the beginning."""
        try:
            version = self._read_version()
            found = self.path.lstat()
        except (FileNotFoundError, ValueError, TypeError, RecursionError):
            return 0, None
        size = found.st_size
        # A second hard link would change another file.
        trusted = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        if not trusted or version.url != url or size > (version.total or size):
            return 0, None
        # Of a complete file, ask for the last byte again: a range can't be empty, and only a response has the checksum.
        return (size - 1 if size == version.total else size), version

    def reset(self, version: Version) -> None:
        """Delete the bytes received so far and write the sidecar of a new version."""
        # Delete first: a new sidecar beside old bytes would be trusted. Also, `path` may be a link.
        self.path.unlink(missing_ok=True)
        write_json(self.sidecar, dataclasses.asdict(version))

    @contextmanager
    def open_for_writing(self, offset: int) -> Iterator[BinaryIO]:
        """Open the file to write from byte `offset`. An offset of 0 creates the file."""
        with open(self.path, "ab" if offset else "xb", opener=_open_without_links) as writer:
            writer.truncate(offset)
            yield writer

    def discard(self) -> None:
        """Delete the bytes received so far and the sidecar."""
        self.path.unlink(missing_ok=True)
        self.sidecar.unlink(missing_ok=True)

    def _read_version(self) -> Version:
        if not self.sidecar.is_file():
            raise FileNotFoundError(self.sidecar)
        with self.sidecar.open("rb") as reader:
            text = reader.read(_MAX_SIDECAR_BYTES)
        version = Version(**json.loads(text))
        if version.validator is not None and not re.fullmatch(r"[ -~]+", version.validator):
            raise ValueError("the validator can't be sent as a header")
        if version.total is not None and (type(version.total) is not int or version.total < 1):
            raise ValueError("the total is not a length")
        return version


def _open_without_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)
