"""Raw review files as Arrow streams of their rows, numbered, with nothing lost on the way.

Every row reaches the caller, also those that no parser likes: JSON lines come as bytes (so that invalid
UTF-8 is a bad row, not the end of the file), CSV rows of a wrong width with the text that they hold. In
CSV, bytes that aren't UTF-8 become U+FFFD. What is held at a time is a block, whatever the file and its lines.
"""

from __future__ import annotations

import ast
import codecs
import csv
import gzip
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from isal import igzip, igzip_lib

from tapestry.data.layouts import LAYOUTS, Layout, columns_without_header, layout_of
from tapestry.errors import TapestryError

LONGEST_LINE = 1 << 24  # bytes; a longer one comes through cut, but longer than this
_BLOCK_BYTES = 1 << 24
_SNIFFED_LINES = 1000
_DAMAGED: tuple[type[Exception], ...] = (EOFError, gzip.BadGzipFile, cast(type[Exception], igzip_lib.IsalError))
_LONGEST_LITERAL = 1 << 20  # bytes; a literal costs hundreds of times its size to read

LINES_SCHEMA = pa.schema([("row", pa.int64()), ("line", pa.binary()), ("json", pa.binary())])


class RowStream:
    """Batches that DuckDB can scan, and the error that ended them: DuckDB buries it in one of its own."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self.error: TapestryError | None = None
        self.reader = pa.RecordBatchReader.from_batches(schema, self._watch(batches))

    def _watch(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except TapestryError as error:
            self.error = error
            raise


@dataclass(frozen=True)
class RawFile:
    """A raw file that exists, is not empty, and whose compression is what its name says."""

    path: Path
    format: Literal["json", "csv", "parquet"]
    gzipped: bool

    @classmethod
    def open(cls, path: Path) -> RawFile:
        """Look at a file's name and first bytes.

        Raises:
            TapestryError: no such file, empty, or gzipped by name only.
        """
        if not path.is_file():
            raise TapestryError(f"{path}: no such file")
        suffixes = [suffix.lower() for suffix in path.suffixes]
        gzipped = suffixes[-1:] == [".gz"]
        suffix = (suffixes[:-1] if gzipped else suffixes)[-1:]
        formats: dict[str, Literal["json", "csv", "parquet"]] = {
            ".json": "json",
            ".jsonl": "json",
            ".csv": "csv",
            ".parquet": "parquet",
        }
        if not suffix or suffix[0] not in formats:
            raise TapestryError(f"{path}: unknown kind of file; known are {', '.join(formats)}, also with .gz")
        with path.open("rb") as file:
            magic = file.read(2)
        if not magic:
            raise TapestryError(f"{path}: the file is empty; fetch or copy it again")
        if gzipped and magic != b"\x1f\x8b":
            raise TapestryError(
                f"{path}: named .gz but not gzipped (first bytes {magic!r}); an interrupted download or an "
                "error page saved as a file looks like this: fetch it again, or drop .gz from its name"
            )
        return cls(path, formats[suffix[0]], gzipped or magic == b"\x1f\x8b")

    def layout(self) -> Layout:
        """The release whose column names the file has.

        Raises:
            TapestryError: a needed column is missing; lists what was found and what is accepted.
        """
        layout = layout_of(self.columns)
        if layout is None:
            accepted = "\n  ".join(map(str, LAYOUTS))
            raise TapestryError(
                f"{self.path}: no known set of columns. Found: {', '.join(self.columns) or 'none'}. "
                f"Accepted:\n  {accepted}\nor, in CSV without a header, Amazon's user, item, rating, timestamp "
                "(2014) or item, user, rating, timestamp (2018)"
            )
        return layout

    def read_lines(self) -> RowStream:
        """Lines of a text file as (row int64, line binary, json binary), rows counted from 1.

        `json` is null but for a line that is no JSON but a Python literal, as some of the 2014 release are: it is
        the same in JSON.
        """
        return RowStream(LINES_SCHEMA, self._line_batches())

    def read_csv(self, columns: list[str]) -> RowStream:
        """Rows of a CSV file as (row int64, malformed string, *columns string).

        Rows are counted from 1, below the header if there is one. A row with too few or too many fields comes with its
        text in `malformed` and nulls elsewhere; `malformed` is null in the others.
        """
        schema = pa.schema([("row", pa.int64())] + [(name, pa.string()) for name in ["malformed", *columns]])
        return RowStream(schema, self._csv_batches(schema, columns))

    def _open(self) -> BinaryIO:
        if self.gzipped:
            return cast(BinaryIO, igzip.IGzipFile(self.path, "rb"))
        return self.path.open("rb")

    def _read_blocks(self, block_bytes: int) -> Iterator[bytes]:
        with self._open() as file:
            while block := self._guarded_read(file, block_bytes):
                yield block

    def _guarded_read(self, file: BinaryIO, count: int) -> bytes:
        try:
            return file.read(count)
        except _DAMAGED as error:
            raise TapestryError(
                f"{self.path}: the gzip stream is truncated or damaged ({error}); fetch or copy it again"
            ) from error

    def _line_batches(self) -> Iterator[pa.RecordBatch]:
        rows = 0
        tail = b""
        for block in itertools.chain(self._read_blocks(_BLOCK_BYTES), [b""]):
            is_last = not block
            # Of a line that grows too long no more is kept than tells it.
            data = tail[: LONGEST_LINE + 1] + block
            if rows == 0:
                data = data.removeprefix(codecs.BOM_UTF8)
            if is_last and data and not data.endswith(b"\n"):
                data += b"\n"
            ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
            tail = data[ends[-1] + 1 :] if len(ends) else data
            if len(ends):
                batch = _split_lines(data, ends, rows, self._has_literals)
                rows += len(ends)
                yield batch

    def _csv_batches(self, schema: pa.Schema, columns: list[str]) -> Iterator[pa.RecordBatch]:
        malformed: dict[int, str] = {}

        def keep_malformed(row: Any) -> Literal["skip"]:
            malformed[row.number - self._has_header] = row.text
            return "skip"

        numbered = 0
        with self._open() as file:
            for batch in self._parse_csv(file, columns, keep_malformed):
                # Arrow reports malformed rows no later than the batch that follows them.
                candidates = np.arange(numbered + 1, numbered + 1 + len(batch) + len(malformed))
                rows = np.setdiff1d(candidates, np.fromiter(malformed, np.int64))[: len(batch)]
                numbered = int(rows[-1]) if len(rows) else numbered
                arrays = [pa.array(rows), pa.nulls(len(batch), pa.string())]
                yield pa.RecordBatch.from_arrays(arrays + [batch.column(name) for name in columns], schema=schema)
        arrays = [pa.array(list(malformed), pa.int64()), pa.array(list(malformed.values()), pa.string())]
        nulls = pa.nulls(len(malformed), pa.string())
        yield pa.RecordBatch.from_arrays(arrays + [nulls] * len(columns), schema=schema)

    def _parse_csv(self, file: BinaryIO, columns: list[str], keep_malformed: Any) -> Iterator[pa.RecordBatch]:
        try:
            yield from pa.csv.open_csv(
                _TextFile(self, file),
                read_options=pa.csv.ReadOptions(
                    use_threads=False, block_size=_BLOCK_BYTES, column_names=self.columns, skip_rows=self._has_header
                ),
                parse_options=pa.csv.ParseOptions(
                    newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=keep_malformed
                ),
                convert_options=pa.csv.ConvertOptions(
                    include_columns=columns,
                    column_types=dict.fromkeys(columns, pa.string()),
                    strings_can_be_null=False,
                ),
            )
        except pa.ArrowInvalid as error:
            raise TapestryError(f"{self.path}: not readable as CSV: {error}") from error

    @cached_property
    def columns(self) -> list[str]:
        """The names of the columns, or of the keys of the first objects."""
        if self.format == "parquet":
            try:
                return list(pa.parquet.read_schema(self.path).names)
            except (pa.ArrowInvalid, OSError) as error:
                raise TapestryError(f"{self.path}: not a Parquet file, or a damaged one: {error}") from error
        if self.format == "csv":
            names = columns_without_header(self._head_rows)
            return list(names) if names else [name.strip() for name in self._head_rows[0]]
        found: dict[str, None] = {}
        for line in self._head:
            value = _read_json(line)
            found |= dict.fromkeys((_read_literal(line) if value is None else value) or {})
        return list(found)

    @cached_property
    def _has_header(self) -> bool:
        return columns_without_header(self._head_rows) is None

    @cached_property
    def _has_literals(self) -> bool:
        """Whether lines are Python's and not JSON's, which is far slower to read."""
        return any(_read_json(line) is None and _read_literal(line) is not None for line in self._head)

    @cached_property
    def _head(self) -> list[bytes]:
        """The first lines."""
        head = next(self._read_blocks(1 << 20), b"").removeprefix(codecs.BOM_UTF8).splitlines()[:_SNIFFED_LINES]
        if not head:
            raise TapestryError(f"{self.path}: the file holds no rows; fetch or copy it again")
        return head

    @cached_property
    def _head_rows(self) -> list[list[str]]:
        """The first rows of CSV, as far as they can be told from single lines."""
        try:
            return [next(csv.reader([_decode(line)], skipinitialspace=True), []) for line in self._head]
        except csv.Error as error:
            raise TapestryError(f"{self.path}: not readable as CSV: {error}") from error


class _TextFile:
    """A file for Arrow, all UTF-8 (Arrow can't hand over a malformed row that isn't), with errors for users."""

    def __init__(self, raw: RawFile, file: BinaryIO) -> None:
        self._raw = raw
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.closed = False

    def read(self, count: int = -1) -> bytes:
        data = self._raw._guarded_read(self._file, count)
        text = self._decoder.decode(data, final=not data)
        # Nothing yet of a character that the block cut in two isn't the end of the file.
        return self.read(count) if data and not text else text.encode()

    def close(self) -> None:
        self.closed = True


def _split_lines(data: bytes, ends: np.ndarray[Any, Any], rows_before: int, has_literals: bool) -> pa.RecordBatch:
    """Zero-copy: the block itself is the value buffer, line ends become offsets (newline cut in SQL)."""
    offsets = np.concatenate([[0], ends + 1]).astype(np.int32)
    lines = pa.Array.from_buffers(pa.binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    rows = pa.array(np.arange(rows_before + 1, rows_before + 1 + len(ends)), pa.int64())
    literals = pa.nulls(len(ends), pa.binary())
    if has_literals:
        literals = pa.array([_literal_as_json(line) for line in lines.to_pylist()], pa.binary())
    return pa.RecordBatch.from_arrays([rows, lines, literals], schema=LINES_SCHEMA)


def _decode(line: bytes) -> str:
    return line.decode("utf-8", "replace")


def _read_json(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _read_literal(line: bytes) -> dict[str, Any] | None:
    if not line.startswith(b"{'") or len(line) > _LONGEST_LITERAL:
        return None
    try:
        value = ast.literal_eval(line.decode())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, dict) and all(isinstance(key, str) for key in value) else None


def _literal_as_json(line: bytes) -> bytes | None:
    value = _read_literal(line)
    try:
        return None if value is None else json.dumps(value).encode()
    except (TypeError, ValueError):  # Python has values that JSON has not
        return None
