"""CSV read a character at a time, in plain Python: what `tapestry.ingest.csv_rows` must come to."""

from __future__ import annotations

import re
from dataclasses import dataclass

END = b"\r\n"


@dataclass(frozen=True)
class Record:
    """A row as it stands in the file, without its line end: its fields, or why it can't be read."""

    text: bytes
    fields: tuple[bytes, ...]
    problem: str | None


def physical_lines(data: bytes) -> list[bytes]:
    r"""Lines with their ends, which are \n, \r\n and \r."""
    lines, start, place = [], 0, 0
    while place < len(data):
        place += 1
        if data[place - 1] == 10 or (data[place - 1] == 13 and data[place : place + 1] != b"\n"):
            lines.append(data[start:place])
            start = place
    return [*lines, data[start:]] if start < len(data) else lines


def read_records(data: bytes, delimiter: bytes, width: int, timestamp: int) -> list[Record]:
    """The records of CSV below its header; `width` fields each, of which number `timestamp` is the time."""
    records = []
    place = 0
    while place < len(data):
        line = physical_lines(data[place:])[0]
        length, fields, problem = _read(data[place:], delimiter)
        lines = physical_lines(data[place : place + length])
        if problem is None and len(lines) > 1:
            rows = [_is_row(line, delimiter, width, timestamp) for line in lines]
            if all(rows) if len(rows) == 2 else any(rows[1:-1]):
                problem = "quote takes in the rows after it"
        if problem is not None:
            length, fields = len(line), []
        text = _without_end(data[place : place + length])
        if problem is None and not text.strip(b" \t\v\f\r\n"):
            problem = "blank line"
        elif problem is None and len(fields) != width:
            problem = "wrong number of fields"
        records.append(Record(text, tuple(fields) if problem is None else (), problem))
        place += length
    return records


def _read(data: bytes, delimiter: bytes) -> tuple[int, list[bytes], str | None]:
    """Bytes of the first record with its line end, its fields, and what is wrong with it."""
    place = 0
    fields: list[bytes] = []
    while True:
        field = bytearray()
        if data[place : place + 1] == b'"':
            place += 1
            while data[place : place + 1] != b'"' or data[place + 1 : place + 2] == b'"':
                if place >= len(data):
                    return 0, [], "quote not closed"
                if data[place : place + 1] == b'"':
                    place += 1
                field += data[place : place + 1]
                place += 1
            place += 1
            if data[place : place + 1] not in (b"", delimiter, b"\n", b"\r"):
                return 0, [], "text after a closing quote"
        else:
            while data[place : place + 1] not in (b"", delimiter, b"\n", b"\r"):
                field += data[place : place + 1]
                place += 1
        fields.append(bytes(field))
        if data[place : place + 1] != delimiter:
            return place + (2 if data[place : place + 2] == END else len(data[place : place + 1])), fields, None
        place += 1


def _is_row(line: bytes, delimiter: bytes, width: int, timestamp: int) -> bool:
    fields = _without_end(line).split(delimiter)
    return len(fields) == width and re.fullmatch(rb"-?[0-9]+(\.0*)?", fields[timestamp].strip(b'" \t\v\f')) is not None


def _without_end(line: bytes) -> bytes:
    return line.rstrip(END)
