"""What has come of a download so far: <name>.part, and <name>.part.json, which says of what it is the beginning.

Both may be from another process, or be anybody's: what isn't as this module leaves it is not believed, and nothing is
written through a link.
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

_LARGEST_NOTE = 1 << 16  # bytes


@dataclass(frozen=True)
class Version:
    """Of what a part is the beginning."""

    url: str
    validator: str | None  # for If-Range
    total: int | None  # bytes of the whole file


class Part:
    """The beginning of `target`."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self.note = target.with_name(f"{target.name}.part.json")
        self.lock = target.with_name(f"{target.name}.part.lock")

    def size(self) -> int:
        """Bytes that are there; 0 of what isn't a file."""
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return 0
        return found.st_size if stat.S_ISREG(found.st_mode) else 0

    def leftover(self, url: str) -> tuple[int, Version | None]:
        """From which byte to go on, and of which version of the file."""
        try:
            version = self._version()
            found = self.path.lstat()
        except (FileNotFoundError, ValueError, TypeError, RecursionError):
            return 0, None
        size = found.st_size
        ours = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
        if not ours or version.url != url or size > (version.total or size):
            return 0, None
        # Of a whole part the last byte is asked for again: an empty range cannot be, and only an answer has the
        # checksum.
        return (size - 1 if size == version.total else size), version

    def start(self, version: Version) -> None:
        """Forget what is there."""
        # Deleted first: a new note beside old bytes would be believed. And what lies there may be a link.
        self.path.unlink(missing_ok=True)
        write_json(self.note, dataclasses.asdict(version))

    @contextmanager
    def writer(self, offset: int) -> Iterator[BinaryIO]:
        """To write from byte `offset` on, to a new file if that is 0."""
        with open(self.path, "ab" if offset else "xb", opener=_not_through_links) as writer:
            writer.truncate(offset)
            yield writer

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def _version(self) -> Version:
        if not self.note.is_file():
            raise FileNotFoundError(self.note)
        with self.note.open("rb") as reader:
            text = reader.read(_LARGEST_NOTE)
        version = Version(**json.loads(text))
        if version.validator is not None and not re.fullmatch(r"[ -~]+", version.validator):
            raise ValueError("no header")
        if version.total is not None and (type(version.total) is not int or version.total < 1):
            raise ValueError("no length")
        return version


def _not_through_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)
