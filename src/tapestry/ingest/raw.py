"""Raw files as bytes: the format of a file, its decompressed blocks, and how many bytes may still follow."""

from __future__ import annotations

import codecs
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Literal, cast

from isal import igzip, igzip_lib

from tapestry.core.errors import TapestryError

Format = Literal["json", "csv", "parquet"]

_FORMATS: dict[str, Format] = {
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".ndjson": "json",
    ".tsv": "csv",
    ".inter": "csv",
}
HEAD_BYTES = 1 << 20
_MAX_INFLATION = 1032  # bytes that one byte of gzip can decompress to, at most
_READ_AHEAD = 1 << 20  # bytes of gzip that may be read but not decompressed yet
_DAMAGED: tuple[type[Exception], ...] = (EOFError, gzip.BadGzipFile, cast(type[Exception], igzip_lib.IsalError))
_MAGIC = {
    b"PK\x03\x04": "a ZIP archive (or a spreadsheet, which is one): unpack it, or save the sheet as CSV",
    b"PAR1": "a Parquet file: name it .parquet",
    b"\x1f\x8b": "gzip inside gzip: unpack it once",
    b"BZh": "a bzip2 file: unpack it, or pack it with gzip",
    b"\xfd7zXZ": "an xz file: unpack it, or pack it with gzip",
    b"\x28\xb5\x2f\xfd": "a Zstandard file: unpack it, or pack it with gzip",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"Rar!": "a RAR archive: unpack it",
    b"%PDF": "a PDF document",
    b"SQLite format 3": "a SQLite database: export its table as CSV",
    b"\x89HDF": "an HDF5 file: save it as CSV or Parquet",
    b"ARROW1": "an Arrow (Feather) file: save it as Parquet",
    b"\x80\x04\x95": "a Python pickle, which is never opened: save it as CSV or Parquet",
    b"\x80\x05\x95": "a Python pickle, which is never opened: save it as CSV or Parquet",
}
_TAR = slice(257, 262)  # where a tar archive has "ustar"


@dataclass(frozen=True)
class RawFile:
    """A raw file that exists, is not empty, and has the format that its name says."""

    path: Path
    format: Format
    gzipped: bool

    @classmethod
    def open(cls, path: Path) -> RawFile:
        """Check a file's name and first bytes.

        Raises:
            TapestryError: the file doesn't exist, is empty, is .gz by name only, or has another format than its name
                says.
        """
        if not path.is_file():
            raise TapestryError(f"{path}: no such file")
        suffixes = [suffix.lower() for suffix in path.suffixes]
        gzipped = suffixes[-1:] == [".gz"]
        suffix = (suffixes[:-1] if gzipped else suffixes)[-1:]
        if not suffix or suffix[0] not in _FORMATS:
            raise TapestryError(f"{path}: unknown kind of file; known are {', '.join(_FORMATS)}, also with .gz")
        with path.open("rb") as file:
            magic = file.read(2)
        if not magic:
            raise TapestryError(f"{path}: the file is empty; fetch or copy it again")
        if gzipped and magic != b"\x1f\x8b":
            raise TapestryError(
                f"{path}: named .gz but not gzipped (first bytes {magic!r}); an interrupted download or an "
                "error page saved as a file looks like this: fetch it again, or drop .gz from its name"
            )
        raw = cls(path, _FORMATS[suffix[0]], gzipped or magic == b"\x1f\x8b")
        if raw.format != "parquet":
            raw._refuse_other_formats()
        return raw

    @cached_property
    def head(self) -> bytes:
        """The first HEAD_BYTES, decompressed, without a byte order mark."""
        return self._head.removeprefix(codecs.BOM_UTF8)

    @property
    def bom_bytes(self) -> int:
        """Length of the byte order mark (UTF-8) before `head`; 0 if there is none."""
        return len(self._head) - len(self.head)

    @cached_property
    def _head(self) -> bytes:
        return next(iter(self.blocks(HEAD_BYTES)), b"")

    def blocks(self, count: int) -> Blocks:
        """Return the decompressed bytes in blocks of `count`."""
        return Blocks(self, count)

    def _refuse_other_formats(self) -> None:
        """Raise if the first bytes are those of a known format that can't be read."""
        found = next((kind for magic, kind in _MAGIC.items() if self.head.startswith(magic)), None)
        if found is None and self.head[_TAR] == b"ustar":
            found = "a tar archive: unpack it"
        if found is None and _is_utf16(self.head):
            found = "text in UTF-16 or UTF-32: save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"
        if found is not None:
            raise TapestryError(f"{self.path}: this is {found}")


class Blocks:
    """Iterates over the decompressed bytes of a file."""

    def __init__(self, raw: RawFile, count: int) -> None:
        self._raw = raw
        self._count = count
        self.max_bytes_left = raw.path.stat().st_size * (_MAX_INFLATION if raw.gzipped else 1)
        """Upper bound of the bytes that follow the block returned last."""

    def __iter__(self) -> Iterator[bytes]:
        with self._raw.path.open("rb") as stored, self._decompressed(stored) as file:
            size = self._raw.path.stat().st_size
            while block := self._read(file):
                if self._raw.gzipped:
                    self.max_bytes_left = _MAX_INFLATION * min(size, size - stored.tell() + _READ_AHEAD)
                else:
                    self.max_bytes_left = max(0, size - stored.tell())
                yield block
        self.max_bytes_left = 0

    def _decompressed(self, stored: BinaryIO) -> BinaryIO:
        return cast(BinaryIO, igzip.IGzipFile(fileobj=stored, mode="rb")) if self._raw.gzipped else stored

    def _read(self, file: BinaryIO) -> bytes:
        try:
            return file.read(self._count)
        except _DAMAGED as error:
            raise TapestryError(
                f"{self._raw.path}: the gzip stream is truncated or damaged ({error}); fetch or copy it again"
            ) from error


def _is_utf16(head: bytes) -> bool:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        return True
    first = head[:200]
    return len(first) >= 4 and 3 * first.count(0) >= len(first) and any(0 < byte < 128 for byte in first)
