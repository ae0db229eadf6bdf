"""Bytes of CSV cut into records, so that no quote takes rows with it (RFC 4180, read strictly).

A record is a row: one physical line, or several where a quoted field holds line breaks. A quote opens a field only as
its first character; anywhere else outside quotes it is a character like any other (`6" disc`). Inside quotes `""` is
a quote, and a single one closes the field: then a delimiter or a line end must follow. A line whose quotes break
these rules is one bad record by itself, and reading goes on with the next line: what an open quote would have
swallowed is kept. `"tis good` in one row, for example, costs that row and not those up to the next quote.

NumPy finds the lines that are whole records, which are nearly all; only the others are looked at one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

LONGEST_RECORD = 1 << 24  # bytes
_QUOTE, _NEWLINE, _RETURN = b'"\n\r'
_QUOTED = re.compile(rb'"(?:[^"]++|"")*+"')
_BLANKS = b" \t\r\n\v\f"


class Problem(IntEnum):
    """Why a record can't be read."""

    NONE = 0
    BLANK = 1
    TOO_LONG = 2
    NOT_CLOSED = 3
    TEXT_AFTER_QUOTE = 4
    TAKES_IN_ROWS = 5
    WRONG_WIDTH = 6

    @property
    def reason(self) -> str:
        return _REASONS[self]


_REASONS = {
    Problem.BLANK: "blank line",
    Problem.TOO_LONG: f"longer than {LONGEST_RECORD >> 20} MiB",
    Problem.NOT_CLOSED: "quote not closed",
    Problem.TEXT_AFTER_QUOTE: "text after a closing quote",
    Problem.TAKES_IN_ROWS: "quote takes in the rows after it",
    Problem.WRONG_WIDTH: "wrong number of fields",
}

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Records:
    """Records of a piece of a file.

    starts, ends: (R,) where each begins, and ends with its line end. problems: (R,) `Problem` of each.
    breaks: line breaks inside quotes. What is behind the last of `ends` belongs to a record that goes on.
    """

    starts: Indices
    ends: Indices
    problems: npt.NDArray[np.int8]
    breaks: int

    def part(self, which: slice) -> Records:
        """Some of them; `breaks` are still those of all."""
        return Records(self.starts[which], self.ends[which], self.problems[which], self.breaks)


class RecordCutter:
    """Cuts records of `delimiter`. `is_row` tells whether a physical line, read alone, looks like a whole row.

    A quoted field may hold line breaks, but not whole rows: then a quote in one row was closed by a quote in another.
    Two lines are such a record if both look like rows, more if any between the first and the last does.
    """

    def __init__(self, delimiter: bytes, width: int, is_row: Callable[[bytes], bool]) -> None:
        self._is_row = is_row
        self._unquoted = re.compile(rb"[^%b\r\n]*" % re.escape(delimiter))
        self._delimiter = delimiter[0]
        self._most_fields = 4 * width + 64  # past this a record is given up, so that work stays linear
        field = rb'(?:"(?:[^"]++|"")*+"|[^"%b\r\n][^%b\r\n]*+|)' % ((re.escape(delimiter),) * 2)
        # A return at the end of a piece may go on as \r\n.
        self._regular = re.compile(
            rb"(?:%b%b){0,%d}+%b(?:\n|\r\n|\r(?!\n|\Z))" % (field, re.escape(delimiter), self._most_fields, field)
        )

    def cut(self, data: bytes, is_last: bool) -> Records:
        """The records that are whole in `data`, which begins with one; all of it if it is the last of the file."""
        array = np.frombuffer(data, np.uint8)
        ends = line_ends(array, is_last)
        starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
        problems = np.zeros(len(ends), np.int8)
        breaks = 0
        if b'"' in data:
            first, last = self._join(data, starts, ends, self._irregular(array, starts, ends), is_last, problems)
            breaks = int((last - first).sum())
            starts, ends, problems = starts[first], ends[last], problems[first]
        problems[_blank(array, starts, ends)] = Problem.BLANK
        problems[ends - starts > LONGEST_RECORD] = Problem.TOO_LONG
        return Records(starts, ends, problems, breaks)

    def first(self, data: bytes) -> int:
        """Bytes of the first record of all of a file; of its first line, if quotes go wrong there."""
        end, _ = self._scan(data, 0, is_last=True)
        return int(line_ends(np.frombuffer(data, np.uint8), is_last=True)[0]) if end is None else end

    def _irregular(self, array: npt.NDArray[np.uint8], starts: Indices, ends: Indices) -> list[int]:
        """Lines with quotes that are not a whole record whose every quote opens, closes or is doubled."""
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

    def _join(
        self,
        data: bytes,
        starts: Indices,
        ends: Indices,
        irregular: list[int],
        is_last: bool,
        problems: npt.NDArray[np.int8],
    ) -> tuple[Indices, Indices]:
        """The first and the last line of each record that ends in `data`; what is wrong goes to `problems` by line."""
        # Python's own integers: NumPy's cost ten times as much one by one.
        start_of, end_of = starts.tolist(), ends.tolist()
        whole = len(ends)
        joined: list[tuple[int, int]] = []
        free = 0
        for line in irregular:
            if line < free:
                continue
            end, problem = self._scan(data, start_of[line], is_last)
            if end is None and problem is Problem.NONE:
                whole = line
                break
            last = line
            while end is not None and end_of[last] < end:
                last += 1
            if last > line and self._takes_in_rows(data, start_of[line : last + 1], end_of[line : last + 1]):
                problem, last = Problem.TAKES_IN_ROWS, line
            if problem is not Problem.NONE:
                problems[line] = problem
            elif last > line:
                joined.append((line, last))
            free = last + 1
        return _without_inner(joined, whole)

    def _scan(self, data: bytes, start: int, is_last: bool) -> tuple[int | None, Problem]:
        """Where the record from `start` ends, or what is wrong with it; neither if that is not to be seen yet."""
        if regular := self._regular.match(data, start):
            return regular.end(), Problem.NONE
        place = start
        for _ in range(self._most_fields):
            quoted = place < len(data) and data[place] == _QUOTE
            field = (_QUOTED if quoted else self._unquoted).match(data, place)
            place = field.end() if field else len(data)
            if place == len(data):
                if is_last:
                    return (place, Problem.NONE) if field else (None, Problem.NOT_CLOSED)
                too_long = Problem.TOO_LONG if field else Problem.NOT_CLOSED
                return None, too_long if place - start > LONGEST_RECORD else Problem.NONE
            if data[place] == _NEWLINE:
                return place + 1, Problem.NONE
            if data[place] == _RETURN:
                if place + 1 == len(data) and not is_last:
                    return None, Problem.NONE
                return place + 1 + (data[place + 1 : place + 2] == b"\n"), Problem.NONE
            if data[place] != self._delimiter:
                return None, Problem.TEXT_AFTER_QUOTE
            place += 1
        return None, Problem.WRONG_WIDTH

    def _takes_in_rows(self, data: bytes, starts: list[int], ends: list[int]) -> bool:
        if len(starts) == 2:
            return self._is_row(data[starts[0] : ends[0]]) and self._is_row(data[starts[1] : ends[1]])
        return any(self._is_row(data[start:end]) for start, end in zip(starts[1:-1], ends[1:-1], strict=True))


def _without_inner(joined: list[tuple[int, int]], lines: int) -> tuple[Indices, Indices]:
    """The first and the last line of each record; the lines from a to b are one record for each (a, b) `joined`."""
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
    r"""Where the physical lines of bytes end, line end (\n, \r\n or \r) included.

    The rest of `array` is a line only if it is the last of the file.
    """
    ends = np.flatnonzero(array == _NEWLINE) + 1
    returns = np.flatnonzero(array == _RETURN)
    if len(returns):
        followed = array[np.minimum(returns + 1, len(array) - 1)] == _NEWLINE
        # At the end of a piece it isn't known yet whether a newline follows.
        alone = ~followed & ((returns < len(array) - 1) | is_last)
        if alone.any():
            ends = np.sort(np.concatenate([ends, returns[alone] + 1]))
    if is_last and len(array) and (len(ends) == 0 or ends[-1] < len(array)):
        ends = np.append(ends, len(array))
    return ends


def split_record(record: bytes, delimiter: bytes) -> list[bytes]:
    """The fields of a record, quotes read; a record whose quotes are wrong is split at every delimiter."""
    record = record.rstrip(b"\r\n")
    field = re.compile(rb'(?:"((?:[^"]|"")*+)"|([^%b]*))(?:(%b)|\Z)' % ((re.escape(delimiter),) * 2))
    fields = []
    place = 0
    while True:
        match = field.match(record, place)
        if match is None:
            return record.split(delimiter)
        quoted, plain, more = match.groups()
        fields.append(plain if quoted is None else quoted.replace(b'""', b'"'))
        place = match.end()
        if more is None:
            return fields


def _blank(array: npt.NDArray[np.uint8], starts: Indices, ends: Indices) -> Indices:
    """Records of blanks alone."""
    if not len(starts):
        return starts
    begins = array[starts]
    candidates = np.flatnonzero(np.isin(begins, list(_BLANKS)))
    # A line end alone, as nearly all blank lines are, is told without Python.
    ended = ends[candidates] - starts[candidates] == 1 + (array[ends[candidates] - 1] != begins[candidates])
    bare = ended & np.isin(begins[candidates], [_NEWLINE, _RETURN])
    others = candidates[~bare]
    blank = [
        not array[start:end].tobytes().strip(_BLANKS) for start, end in zip(starts[others], ends[others], strict=True)
    ]
    return np.concatenate([candidates[bare], others[np.array(blank, bool)]])
