"""Reader of CSV: finds delimiter and columns in the file's first lines, splits records, and parses fields by Arrow.

Bytes that aren't UTF-8 become U+FFFD.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv

from tapestry.core.arrays import Integers
from tapestry.core.arrow import integers
from tapestry.core.errors import TapestryError
from tapestry.ingest.csv_records import LONGEST_RECORD, Problem, Records, RecordSplitter, line_ends, split_record
from tapestry.ingest.layouts import Layout, columns_without_header, header_names, layout_of
from tapestry.ingest.raw import RawFile
from tapestry.ingest.rows import (
    BATCH_ROWS,
    INVALID_UTF8,
    KEYS,
    Query,
    column_indices,
    has_replacement,
    joined_text,
    no_rows_error,
    quoted,
)

DELIMITERS = (b",", b"\t", b";", b"|")
_BLOCK_BYTES = 1 << 22
_SNIFFED_LINES = 1000
_PREAMBLE_LINES = 50
_MAX_COLUMNS = 10_000  # of a header that has several lines
_SHORTEST_ROW = 6  # bytes; no row with a user, an item and a timestamp is shorter
_SHOWN_BYTES = 4096  # of a bad record, which become its text


@dataclass(frozen=True)
class _Dialect:
    """How a file is written."""

    delimiter: bytes
    columns: list[str]
    header_bytes: int
    """Bytes before the first row."""


class CsvRows:
    """Batches of (row int64, problem string, text string, and each of KEYS as string).

    Rows are counted from 1, which is the first row below the header. A row that can't be read has `problem` and
    `text`, and nulls in the other columns. For every other row, both are null. A key is null if the file
    has no such column.

    Raises:
        TapestryError: the file has no rows, or its header is not its first line.
    """

    schema = pa.schema([("row", pa.int64())] + [(name, pa.string()) for name in ("problem", "text", *KEYS)])

    def __init__(self, file: RawFile) -> None:
        self._file = file
        self._blocks = file.blocks(_BLOCK_BYTES)
        self._bytes_pending = 0  # of the current block, behind the last batch
        self._dialect = _sniff(file)
        self.columns = self._dialect.columns

    def query(self, layout: Layout) -> Query:
        keys = [key for key, name in layout.by_key.items() if name in self.columns]
        kinds = {
            # Programs save a column of integers with a gap as 1.0, 2.0, and spreadsheets save them as 7.65612E+16.
            key: f"""CASE
                WHEN {key}_plain THEN NULL
                WHEN regexp_full_match({key}_text, '-?[0-9]+\\.0') THEN 'DOUBLE'
                WHEN regexp_full_match({key}_text, '-?[0-9]\\.[0-9]+[eE]\\+[0-9]+') THEN 'ROUNDED'
                WHEN lower({key}_text) IN ('nan', 'null', 'none') THEN 'NAN'
            END"""
            for key in ("user", "item")
        }
        return Query(
            select=f'SELECT row, problem AS unread, "text", {", ".join(map(quoted, KEYS))} FROM raw_rows',
            text=f'coalesce("text", {joined_text(keys)})',
            problem=f"""CASE
                WHEN unread IS NOT NULL THEN unread
                WHEN {has_replacement(keys)} THEN '{INVALID_UTF8}'
            END""",
            unit=layout.unit,
            kinds=kinds,
        )

    def batches(self, layout: Layout) -> Iterator[pa.RecordBatch]:
        indices = column_indices(self._file.path, self.columns, layout)
        is_row = partial(_looks_like_a_row, self._dialect.delimiter, len(self.columns), indices["timestamp"])
        splitter = RecordSplitter(self._dialect.delimiter, len(self.columns), is_row)
        rows = line_breaks = lines = 0
        tail = b""
        for block in itertools.chain(self._blocks_below_header(), [None]):
            data = tail + (block or b"")
            records = splitter.split(data, is_last=block is None)
            for start in range(0, len(records.ends), BATCH_ROWS):
                batch = records.select(slice(start, start + BATCH_ROWS))
                self._bytes_pending = len(data) - int(batch.ends[-1])
                yield from self._record_batches(data, batch, rows + start, indices)
            used = int(records.ends[-1]) if len(records.ends) else 0
            rows += len(records.ends)
            line_breaks += records.line_breaks
            lines += _count_lines(data[:used])
            tail = _shorten_long_line(data[used:])
        if lines != rows + line_breaks:
            raise TapestryError(
                f"{self._file.path}: {lines} lines were read as {rows} rows with {line_breaks} line breaks inside "
                "quotes, which doesn't add up: a fault of Tapestry's, please report it"
            )

    def rows_left(self) -> int:
        return (self._bytes_pending + self._blocks.max_bytes_left) // _SHORTEST_ROW

    def _blocks_below_header(self) -> Iterator[bytes]:
        skipped = self._dialect.header_bytes
        for block in self._blocks:
            yield block[skipped:]
            skipped = max(0, skipped - len(block))

    def _record_batches(
        self, data: bytes, records: Records, rows_before: int, indices: dict[str, int]
    ) -> Iterator[pa.RecordBatch]:
        """Yield one batch of the good records, and one for each problem of the bad ones."""
        good = np.flatnonzero(records.problems == Problem.NONE)
        fields, wrong = self._parse_fields(_bytes_of(data, records, good), len(good), indices)
        records.problems[good[wrong]] = Problem.WRONG_WIDTH
        numbers = rows_before + 1 + np.arange(len(records.ends))
        rows = integers(numbers[np.delete(good, wrong)])
        yield pa.RecordBatch.from_arrays([rows, *[pa.nulls(len(rows), pa.string())] * 2, *fields], schema=self.schema)
        for problem in set(records.problems[records.problems != Problem.NONE].tolist()):
            bad = np.flatnonzero(records.problems == problem)
            texts = pa.array([_shown(data[records.starts[row] : records.ends[row]]) for row in bad], pa.string())
            reasons = pa.array([Problem(problem).reason], pa.string()).take(pa.array(np.zeros(len(bad), np.int64)))
            arrays = [integers(numbers[bad]), reasons, texts, *[pa.nulls(len(bad), pa.string())] * len(KEYS)]
            yield pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _parse_fields(self, data: bytes, rows: int, indices: dict[str, int]) -> tuple[list[pa.Array], list[int]]:
        """Parse complete records by Arrow.

        Returns:
            The values of each of KEYS, and the indices of the records with too few or too many fields, which have no
            values.
        """
        wrong: list[int] = []
        if rows == 0:
            return [pa.nulls(0, pa.string())] * len(KEYS), wrong

        def skip(row: Any) -> Literal["skip"]:
            wrong.append(row.number - 1)
            return "skip"

        # Arrow stops at a row that isn't UTF-8. Column names may occur twice; their numbers are unique.
        text = data if data.isascii() else data.decode("utf-8", "replace").encode()
        names = [str(index) for index in range(len(self.columns))]
        wanted = [names[index] for index in indices.values()]
        try:
            table = pa.csv.read_csv(
                pa.BufferReader(text),
                read_options=pa.csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=names),
                parse_options=pa.csv.ParseOptions(
                    delimiter=self._dialect.delimiter.decode(),
                    newlines_in_values=True,
                    ignore_empty_lines=False,
                    invalid_row_handler=skip,
                ),
                convert_options=pa.csv.ConvertOptions(
                    include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False
                ),
            )
        except pa.ArrowInvalid as error:
            raise TapestryError(f"{self._file.path}: not readable as CSV: {error}") from error
        if len(table) + len(wrong) != rows:
            raise TapestryError(
                f"{self._file.path}: {rows} rows were split and {len(table) + len(wrong)} parsed: a fault of "
                "Tapestry's, please report it"
            )
        missing = pa.nulls(len(table), pa.string())
        return [_single_chunk(table[names[indices[key]]]) if key in indices else missing for key in KEYS], wrong


def _sniff(file: RawFile) -> _Dialect:
    """Find the dialect of a file in its first lines.

    The delimiter is the one with which the first line that isn't blank has the columns of a layout. If there is no such
    header, it is the one with which the ids show which column is which.

    Raises:
        TapestryError: the file has no rows, or its header is not its first line.
    """
    ends = line_ends(np.frombuffer(file.head, np.uint8), is_last=True).tolist()[:_SNIFFED_LINES]
    starts = [0, *ends][: len(ends)]
    lines = [file.head[start:end] for start, end in zip(starts, ends, strict=True)]
    first = next((number for number, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise no_rows_error(file.path)
    lines, start = lines[first:], starts[first]
    headers = []
    for delimiter in DELIMITERS:
        length = RecordSplitter(delimiter, _MAX_COLUMNS, lambda line: False).first_length(file.head[start:])
        names = header_names(_fields(file.head[start : start + length], delimiter))
        headers.append(_Dialect(delimiter, names, file.bom_bytes + start + length))
    for dialect in headers:
        if layout_of(dialect.columns):
            return dialect
    for delimiter in DELIMITERS:
        if columns := columns_without_header([_fields(line, delimiter) for line in lines]):
            return _Dialect(delimiter, list(columns), file.bom_bytes + start)
    for number, line in enumerate(lines[:_PREAMBLE_LINES]):
        if any(layout_of(header_names(_fields(line, delimiter))) for delimiter in DELIMITERS):
            raise TapestryError(
                f"{file.path}: the names of the columns are in line {first + number + 1}, not at the top; delete the "
                "lines above them"
            )
    return max(headers, key=lambda dialect: len(dialect.columns))


def _fields(line: bytes, delimiter: bytes) -> list[str]:
    return [field.decode("utf-8", "replace") for field in split_record(line, delimiter)]


def _looks_like_a_row(delimiter: bytes, width: int, timestamp: int, line: bytes) -> bool:
    """Whether a line has the right number of fields and a whole number as timestamp. Quotes are ordinary characters."""
    fields = line.rstrip(b"\r\n").split(delimiter)
    return len(fields) == width and re.fullmatch(rb'[\s"]*-?[0-9]+(\.0*)?[\s"]*', fields[timestamp]) is not None


def _bytes_of(data: bytes, records: Records, chosen: Integers) -> bytes:
    """Join the bytes of the chosen records."""
    if not len(chosen):
        return b""
    gaps = np.flatnonzero(np.diff(chosen) > 1)
    firsts, lasts = chosen[np.append(0, gaps + 1)], chosen[np.append(gaps, len(chosen) - 1)]
    return b"".join(data[start:end] for start, end in zip(records.starts[firsts], records.ends[lasts], strict=True))


def _shorten_long_line(tail: bytes) -> bytes:
    """Cut a line that is too long, to bound the memory; it stays longer than LONGEST_RECORD, so it is still refused."""
    is_too_long = len(tail) > LONGEST_RECORD and not len(line_ends(np.frombuffer(tail, np.uint8), is_last=False))
    return tail[: LONGEST_RECORD + 1] if is_too_long else tail


def _count_lines(data: bytes) -> int:
    """Count the physical lines, independently of splitting and parsing."""
    unended = bool(data) and not data.endswith((b"\n", b"\r"))
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n") + unended


def _shown(record: bytes) -> str:
    return record[:_SHOWN_BYTES].decode("utf-8", "replace").rstrip("\r\n")


def _single_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
