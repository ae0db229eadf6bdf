"""Splits the bytes of a CSV file into records, so that one wrong quote never swallows the rows after it.

A record is a row of the table: one physical line, or several if a quoted field contains line breaks. Quotes are read
as RFC 4180 defines them:

- A quote opens a quoted field only as the field's first character. Elsewhere outside quotes it is an ordinary
  character, as in `6" disc`.
- Inside a quoted field, `""` is a quote, and a single quote closes the field. A delimiter or a line end must follow.

A line whose quotes break these rules is one bad record, and the next line starts a new record. For example, a row that
contains the field `"tis good` costs that row, and not all rows up to the next quote.

NumPy finds the lines that are complete records, which are nearly all. Only the other lines are scanned one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from tapestry.ingest.rows import BLANK_LINE

LONGEST_RECORD = 1 << 24  # bytes
_QUOTE, _NEWLINE, _RETURN = b'"\n\r'
_QUOTED = re.compile(rb'"(?:[^"]++|"")*+"')
_WHITESPACE = b" \t\r\n\v\f"


class Problem(IntEnum):
    """Why a record can't be read."""

    NONE = 0
    BLANK = 1
    TOO_LONG = 2
    NOT_CLOSED = 3
    TEXT_AFTER_QUOTE = 4
    CONTAINS_ROWS = 5
    WRONG_WIDTH = 6

    @property
    def reason(self) -> str:
        """The reason of quarantine."""
        return _REASONS[self]


_REASONS = {
    Problem.BLANK: BLANK_LINE,
    Problem.TOO_LONG: f"longer than {LONGEST_RECORD >> 20} MiB",
    Problem.NOT_CLOSED: "quote not closed",
    Problem.TEXT_AFTER_QUOTE: "text after a closing quote",
    Problem.CONTAINS_ROWS: "quote takes in the rows after it",
    Problem.WRONG_WIDTH: "wrong number of fields",
}

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Records:
    """R records of a block of a file. The bytes behind the last of `ends` belong to a record of the next block."""

    starts: Indices
    """(R,) offset of the first byte of each record."""
    ends: Indices
    """(R,) offset behind the last byte of each record, which is of its line end."""
    problems: npt.NDArray[np.int8]
    """(R,) `Problem` of each record."""
    line_breaks: int
    """Number of line breaks inside quotes."""

    def select(self, which: slice) -> Records:
        """Return some of the records; `line_breaks` is still the number of all."""
        return Records(self.starts[which], self.ends[which], self.problems[which], self.line_breaks)


class RecordSplitter:
    """Splits bytes into records.

    A quoted field may contain line breaks, but no whole rows: then a quote in one row was closed by a quote in another
    row, and the record is bad. A record of two lines is bad if both look like rows. A record of more lines is bad if
    any line between the first and the last does.

    Args:
        delimiter: one byte.
        width: number of columns.
        is_row: whether a physical line, read on its own, looks like a whole row.
    """

    def __init__(self, delimiter: bytes, width: int, is_row: Callable[[bytes], bool]) -> None:
        self._is_row = is_row
        self._unquoted = re.compile(rb"[^%b\r\n]*" % re.escape(delimiter))
        self._delimiter = delimiter[0]
        self._max_fields = 4 * width + 64  # longer records are bad, which keeps the scan linear
        field = rb'(?:"(?:[^"]++|"")*+"|[^"%b\r\n][^%b\r\n]*+|)' % ((re.escape(delimiter),) * 2)
        # A return at the end of a block may be the first half of \r\n.
        self._regular = re.compile(
            rb"(?:%b%b){0,%d}+%b(?:\n|\r\n|\r(?!\n|\Z))" % (field, re.escape(delimiter), self._max_fields, field)
        )

    def split(self, data: bytes, is_last: bool) -> Records:
        """Return the records that are complete in `data`, which starts with a record.

        If `data` is the last block of the file, all of it is records.
        """
        array = np.frombuffer(data, np.uint8)
        ends = line_ends(array, is_last)
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        problems = np.zeros(len(ends), np.int8)
        line_breaks = 0
        if b'"' in data:
            first, last = self._join_lines(
                data, starts, ends, self._irregular_lines(array, starts, ends), is_last, problems
            )
            line_breaks = int((last - first).sum())
            starts, ends, problems = starts[first], ends[last], problems[first]
        problems[_blank_records(array, starts, ends)] = Problem.BLANK
        problems[ends - starts > LONGEST_RECORD] = Problem.TOO_LONG
        return Records(starts, ends, problems, line_breaks)

    def first_length(self, data: bytes) -> int:
        """Return the length in bytes of the first record of `data`; of the first line, if its quotes are wrong."""
        end, _ = self._scan(data, 0, is_last=True)
        return int(line_ends(np.frombuffer(data, np.uint8), is_last=True)[0]) if end is None else end

    def _irregular_lines(self, array: npt.NDArray[np.uint8], starts: Indices, ends: Indices) -> list[int]:
        """Find the lines with quotes that may not be complete records.

        A line is regular if its quotes, in turn, are where a quote can open and can close a field.
        """
        quotes = np.flatnonzero(array[: ends[-1] if len(ends) else 0] == _QUOTE)
        line = np.searchsorted(ends, quotes, side="right")
        counts = np.bincount(line, minlength=len(ends))
        number = np.arange(len(quotes)) - (np.cumsum(counts) - counts)[line]
        before = array[quotes - 1]
        after = array[np.minimum(quotes + 1, len(array) - 1)]
        opens = (quotes == starts[line]) | (before == self._delimiter) | (before == _QUOTE)
        closes = (after == self._delimiter) | (after == _NEWLINE) | (after == _RETURN) | (after == _QUOTE)
        closes |= quotes == len(array) - 1
        bad = counts % 2 == 1
        bad[line[~np.where(number % 2 == 0, opens, closes)]] = True
        return [int(index) for index in np.flatnonzero(bad)]

    def _join_lines(
        self,
        data: bytes,
        starts: Indices,
        ends: Indices,
        irregular: list[int],
        is_last: bool,
        problems: npt.NDArray[np.int8],
    ) -> tuple[Indices, Indices]:
        """Find the first and the last line of each record that ends in `data`; set `problems` of bad lines."""
        # Python's integers: one by one, NumPy's cost ten times as much.
        start_of, end_of = starts.tolist(), ends.tolist()
        complete = len(ends)  # lines of complete records
        joined: list[tuple[int, int]] = []
        next_line = 0  # the first line that isn't part of a joined record
        for line in irregular:
            if line < next_line:
                continue
            end, problem = self._scan(data, start_of[line], is_last)
            if end is None and problem is Problem.NONE:
                complete = line
                break
            last = line
            while end is not None and end_of[last] < end:
                last += 1
            if last > line and self._contains_rows(data, start_of[line : last + 1], end_of[line : last + 1]):
                problem, last = Problem.CONTAINS_ROWS, line
            if problem is not Problem.NONE:
                problems[line] = problem
            elif last > line:
                joined.append((line, last))
            next_line = last + 1
        return _record_lines(joined, complete)

    def _scan(self, data: bytes, start: int, is_last: bool) -> tuple[int | None, Problem]:
        """Find where the record at `start` ends, or its problem.

        Returns:
            (end, NONE); (None, problem); or (None, NONE) if the record continues in the next block.
        """
        if regular := self._regular.match(data, start):
            return regular.end(), Problem.NONE
        position = start
        for _ in range(self._max_fields):
            quoted = position < len(data) and data[position] == _QUOTE
            field = (_QUOTED if quoted else self._unquoted).match(data, position)
            position = field.end() if field else len(data)
            if position == len(data):
                if is_last:
                    return (position, Problem.NONE) if field else (None, Problem.NOT_CLOSED)
                too_long = Problem.TOO_LONG if field else Problem.NOT_CLOSED
                return None, too_long if position - start > LONGEST_RECORD else Problem.NONE
            if data[position] == _NEWLINE:
                return position + 1, Problem.NONE
            if data[position] == _RETURN:
                if position + 1 == len(data) and not is_last:
                    return None, Problem.NONE
                return position + 1 + (data[position + 1 : position + 2] == b"\n"), Problem.NONE
            if data[position] != self._delimiter:
                return None, Problem.TEXT_AFTER_QUOTE
            position += 1
        return None, Problem.WRONG_WIDTH

    def _contains_rows(self, data: bytes, starts: list[int], ends: list[int]) -> bool:
        """Whether the lines of one record look like separate rows (see the class)."""
        if len(starts) == 2:
            return self._is_row(data[starts[0] : ends[0]]) and self._is_row(data[starts[1] : ends[1]])
        return any(self._is_row(data[start:end]) for start, end in zip(starts[1:-1], ends[1:-1], strict=True))


def _record_lines(joined: list[tuple[int, int]], lines: int) -> tuple[Indices, Indices]:
    """Return the first and the last line of each record.

    Args:
        joined: (first line, last line) of each record that has more than one line.
        lines: number of all lines.
    """
    last_of = np.arange(lines)
    inside = np.zeros(lines + 1, np.int64)
    if joined:
        first, last = np.array(joined).T
        last_of[first] = last
        inside[first + 1] += 1
        inside[last + 1] -= 1
    firsts = np.flatnonzero(np.cumsum(inside[:lines]) == 0)
    return firsts, last_of[firsts]


def line_ends(array: npt.NDArray[np.uint8], is_last: bool) -> Indices:
    r"""Find the offset behind each physical line of `array`, behind its line end (\n, \r\n or \r).

    Bytes behind the last line end are a line only if `array` is the last block of the file.
    """
    ends = np.flatnonzero(array == _NEWLINE) + 1
    returns = np.flatnonzero(array == _RETURN)
    if len(returns):
        followed = array[np.minimum(returns + 1, len(array) - 1)] == _NEWLINE
        # At the end of a block it isn't known yet whether a newline follows.
        bare = ~followed & ((returns < len(array) - 1) | is_last)
        if bare.any():
            ends = np.sort(np.concatenate([ends, returns[bare] + 1]))
    if is_last and len(array) and (len(ends) == 0 or ends[-1] < len(array)):
        ends = np.append(ends, len(array))
    return ends


def split_record(record: bytes, delimiter: bytes) -> list[bytes]:
    """Split a record into its fields, without their quotes.

    A record whose quotes are wrong is split at every delimiter.
    """
    record = record.rstrip(b"\r\n")
    field = re.compile(rb'(?:"((?:[^"]|"")*+)"|([^%b]*))(?:(%b)|\Z)' % ((re.escape(delimiter),) * 2))
    fields = []
    position = 0
    while True:
        match = field.match(record, position)
        if match is None:
            return record.split(delimiter)
        quoted, plain, more = match.groups()
        fields.append(plain if quoted is None else quoted.replace(b'""', b'"'))
        position = match.end()
        if more is None:
            return fields


def _blank_records(array: npt.NDArray[np.uint8], starts: Indices, ends: Indices) -> Indices:
    """Find the records that contain only whitespace."""
    if not len(starts):
        return starts
    first_bytes = array[starts]
    candidates = np.flatnonzero(np.isin(first_bytes, list(_WHITESPACE)))
    # Nearly all blank lines are only a line end, which NumPy finds without a loop.
    only_line_end = ends[candidates] - starts[candidates] == 1 + (
        array[ends[candidates] - 1] != first_bytes[candidates]
    )
    bare = only_line_end & np.isin(first_bytes[candidates], [_NEWLINE, _RETURN])
    others = candidates[~bare]
    blank = [
        not array[start:end].tobytes().strip(_WHITESPACE)
        for start, end in zip(starts[others], ends[others], strict=True)
    ]
    return np.concatenate([candidates[bare], others[np.array(blank, bool)]])
