"""CSV as rows: delimiter and columns as the file's first lines tell, records as they were cut, fields by Arrow.

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
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from tapestry.core.errors import TapestryError
from tapestry.ingest.csv_records import LONGEST_RECORD, Problem, RecordCutter, Records, line_ends, split_record
from tapestry.ingest.layouts import Layout, columns_without_header, header_names, layout_of
from tapestry.ingest.raw import RawFile
from tapestry.ingest.rows import BATCH_ROWS, Query

DELIMITERS = (b",", b"\t", b";", b"|")
_BLOCK_BYTES = 1 << 22
_SNIFFED_LINES = 1000
_PREAMBLE_LINES = 50
_MOST_COLUMNS = 10_000  # that a header may have over several lines
_SHORTEST_ROW = 6  # bytes of a row with a user, an item and a timestamp, at least
_SHOWN_BYTES = 4096  # of a record that can't be read
_KEYS = ("user", "item", "timestamp", "rating")


@dataclass(frozen=True)
class _Dialect:
    """Delimiter, column names, and how many bytes come before the first row."""

    delimiter: bytes
    columns: list[str]
    header: int


class CsvRows:
    """Batches of (row int64, problem string, text string, user, item, timestamp, rating string).

    Rows are counted from 1, below the header if there is one. One that can't be read comes with its `problem` and
    `text`, and with nulls elsewhere; both are null in the others. `rating` is null where there is no such column.

    Raises:
        TapestryError: no rows.
    """

    schema = pa.schema([("row", pa.int64())] + [(name, pa.string()) for name in ("problem", "text", *_KEYS)])

    def __init__(self, file: RawFile) -> None:
        self._file = file
        self._blocks = file.blocks(_BLOCK_BYTES)
        self._pending = 0
        self._dialect = _sniff(file)
        self.columns = self._dialect.columns

    def query(self, layout: Layout) -> Query:
        kept = [key for key, name in layout.by_key.items() if name in self.columns]
        invalid = " OR ".join(f"contains(\"{key}\", '\ufffd')" for key in kept)
        text = " || ',' || ".join(f"coalesce(\"{key}\", '')" for key in kept)
        kinds = {
            # A whole column of numbers with a gap is saved as 1.0, 2.0, or from a spreadsheet as 7.65612E+16.
            key: f"""CASE
                WHEN {key}_plain THEN NULL
                WHEN regexp_full_match({key}_text, '-?[0-9]+\\.0') THEN 'DOUBLE'
                WHEN regexp_full_match({key}_text, '-?[0-9]\\.[0-9]+[eE]\\+[0-9]+') THEN 'ROUNDED'
                WHEN lower({key}_text) IN ('nan', 'null', 'none') THEN 'NAN'
            END"""
            for key in ("user", "item")
        }
        return Query(
            select='SELECT row, problem AS unread, "text", "user", item, "timestamp", rating FROM raw_rows',
            text=f'coalesce("text", {text})',
            problem=f"CASE WHEN unread IS NOT NULL THEN unread WHEN {invalid} THEN 'invalid UTF-8' END",
            unit=layout.unit,
            kinds=kinds,
        )

    def batches(self, layout: Layout) -> Iterator[pa.RecordBatch]:
        places = {key: self._place(name) for key, name in layout.by_key.items() if name in self.columns}
        is_row = partial(_looks_like_a_row, self._dialect.delimiter, len(self.columns), places["timestamp"])
        cutter = RecordCutter(self._dialect.delimiter, len(self.columns), is_row)
        rows = breaks = lines = 0
        tail = b""
        for block in itertools.chain(self._below_the_header(), [None]):
            data = tail + (block or b"")
            records = cutter.cut(data, is_last=block is None)
            for start in range(0, len(records.ends), BATCH_ROWS):
                part = records.part(slice(start, start + BATCH_ROWS))
                self._pending = len(data) - int(part.ends[-1])
                yield from self._batches_of(data, part, rows + start, places)
            used = int(records.ends[-1]) if len(records.ends) else 0
            rows += len(records.ends)
            breaks += records.breaks
            lines += _count_lines(data[:used])
            tail = _bounded(data[used:])
        if lines != rows + breaks:
            raise TapestryError(
                f"{self._file.path}: {lines} lines were read as {rows} rows with {breaks} line breaks inside quotes, "
                "which doesn't add up: a fault of Tapestry's, please report it"
            )

    def rows_left(self) -> int:
        return (self._pending + self._blocks.left) // _SHORTEST_ROW

    def _place(self, name: str) -> int:
        if self.columns.count(name) > 1:
            places = [str(place) for place, column in enumerate(self.columns, start=1) if column == name]
            raise TapestryError(
                f"{self._file.path}: column {name} is there {len(places)} times (columns {', '.join(places)}); "
                "rename all but the one that counts"
            )
        return self.columns.index(name)

    def _below_the_header(self) -> Iterator[bytes]:
        skipped = self._dialect.header
        for block in self._blocks:
            yield block[skipped:]
            skipped = max(0, skipped - len(block))

    def _batches_of(
        self, data: bytes, records: Records, before: int, places: dict[str, int]
    ) -> Iterator[pa.RecordBatch]:
        good = np.flatnonzero(records.problems == Problem.NONE)
        fields, wrong = self._parse(_joined(data, records, good), len(good), places)
        records.problems[good[wrong]] = Problem.WRONG_WIDTH
        numbers = before + 1 + np.arange(len(records.ends))
        rows = pa.array(numbers[np.delete(good, wrong)])
        yield pa.RecordBatch.from_arrays([rows, *[pa.nulls(len(rows), pa.string())] * 2, *fields], schema=self.schema)
        for problem in set(records.problems[records.problems != Problem.NONE].tolist()):
            bad = np.flatnonzero(records.problems == problem)
            texts = pa.array([_shown(data[records.starts[row] : records.ends[row]]) for row in bad], pa.string())
            reasons = pa.array([Problem(problem).reason], pa.string()).take(pa.array(np.zeros(len(bad), np.int64)))
            arrays = [pa.array(numbers[bad]), reasons, texts, *[pa.nulls(len(bad), pa.string())] * len(_KEYS)]
            yield pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _parse(self, data: bytes, rows: int, places: dict[str, int]) -> tuple[list[pa.Array], list[int]]:
        """The fields of whole records by Arrow, and which of the records have too few or too many."""
        wrong: list[int] = []
        if rows == 0:
            return [pa.nulls(0, pa.string())] * len(_KEYS), wrong

        def skip(row: Any) -> Literal["skip"]:
            wrong.append(row.number - 1)
            return "skip"

        # Arrow can't hand over a row that isn't UTF-8. Names of columns may be there twice, numbers are not.
        text = data if data.isascii() else data.decode("utf-8", "replace").encode()
        names = [str(place) for place in range(len(self.columns))]
        wanted = [names[place] for place in places.values()]
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
                f"{self._file.path}: {rows} rows were cut and {len(table) + len(wrong)} parsed: a fault of Tapestry's, "
                "please report it"
            )
        missing = pa.nulls(len(table), pa.string())
        return [_one(table[names[places[key]]]) if key in places else missing for key in _KEYS], wrong


def _sniff(file: RawFile) -> _Dialect:
    """How a file is written, by its first lines.

    The delimiter is the one by which the first line that isn't blank has the columns of a release; or, where there is
    no header, the one by which ids tell which column is which.
    """
    ends = line_ends(np.frombuffer(file.head, np.uint8), is_last=True).tolist()[:_SNIFFED_LINES]
    starts = [0, *ends][: len(ends)]
    lines = [file.head[start:end] for start, end in zip(starts, ends, strict=True)]
    first = next((number for number, line in enumerate(lines) if line.strip()), None)
    if first is None:
        raise TapestryError(f"{file.path}: the file holds no rows; fetch or copy it again")
    lines, start = lines[first:], starts[first]
    headers = []
    for delimiter in DELIMITERS:
        length = RecordCutter(delimiter, _MOST_COLUMNS, lambda line: False).first(file.head[start:])
        names = header_names(_fields(file.head[start : start + length], delimiter))
        headers.append(_Dialect(delimiter, names, file.mark + start + length))
    for dialect in headers:
        if layout_of(dialect.columns):
            return dialect
    for delimiter in DELIMITERS:
        if columns := columns_without_header([_fields(line, delimiter) for line in lines]):
            return _Dialect(delimiter, list(columns), file.mark + start)
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
    """Whether a line, its quotes read as any character, has all fields and a whole number as its timestamp."""
    fields = line.rstrip(b"\r\n").split(delimiter)
    return len(fields) == width and re.fullmatch(rb'[\s"]*-?[0-9]+(\.0*)?[\s"]*', fields[timestamp]) is not None


def _joined(data: bytes, records: Records, chosen: npt.NDArray[np.int64]) -> bytes:
    """The chosen records' bytes, one after the other."""
    if not len(chosen):
        return b""
    cuts = np.flatnonzero(np.diff(chosen) > 1)
    firsts, lasts = chosen[np.append(0, cuts + 1)], chosen[np.append(cuts, len(chosen) - 1)]
    return b"".join(data[start:end] for start, end in zip(records.starts[firsts], records.ends[lasts], strict=True))


def _bounded(tail: bytes) -> bytes:
    """Of a line that grows too long no more than tells it."""
    one_line = len(tail) > LONGEST_RECORD and not len(line_ends(np.frombuffer(tail, np.uint8), is_last=False))
    return tail[: LONGEST_RECORD + 1] if one_line else tail


def _count_lines(data: bytes) -> int:
    """Physical lines, counted apart from cutting and parsing."""
    unended = bool(data) and not data.endswith((b"\n", b"\r"))
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n") + unended


def _shown(record: bytes) -> str:
    return record[:_SHOWN_BYTES].decode("utf-8", "replace").rstrip("\r\n")


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
