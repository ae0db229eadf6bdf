"""An independent CSV reader: reads character by character, by the rules of `tapestry.ingest.csv_records`."""

from __future__ import annotations

import re
from dataclasses import dataclass

END = b"\r\n"


@dataclass(frozen=True)
class Record:
    """A record without its line end, and its fields or the reason why it can't be read."""

    text: bytes
    fields: tuple[bytes, ...]
    problem: str | None


def physical_lines(data: bytes) -> list[bytes]:
    r"""Split bytes into lines, each with its line end (\n, \r\n or \r)."""
    lines, start, position = [], 0, 0
    while position < len(data):
        position += 1
        if data[position - 1] == 10 or (data[position - 1] == 13 and data[position : position + 1] != b"\n"):
            lines.append(data[start:position])
            start = position
    return [*lines, data[start:]] if start < len(data) else lines


def read_records(data: bytes, delimiter: bytes, width: int, timestamp: int) -> list[Record]:
    """Read the records of CSV below its header.

    Args:
        width: number of columns.
        timestamp: index of the timestamp column.
    """
    records = []
    position = 0
    while position < len(data):
        line = physical_lines(data[position:])[0]
        length, fields, problem = _read(data[position:], delimiter)
        lines = physical_lines(data[position : position + length])
        if problem is None and len(lines) > 1:
            rows = [_is_row(line, delimiter, width, timestamp) for line in lines]
            if all(rows) if len(rows) == 2 else any(rows[1:-1]):
                problem = "quote takes in the rows after it"
        if problem is not None:
            length, fields = len(line), []
        text = _without_end(data[position : position + length])
        if problem is None and not text.strip(b" \t\v\f\r\n"):
            problem = "blank line"
        elif problem is None and len(fields) != width:
            problem = "wrong number of fields"
        records.append(Record(text, tuple(fields) if problem is None else (), problem))
        position += length
    return records


def _read(data: bytes, delimiter: bytes) -> tuple[int, list[bytes], str | None]:
    """Return the length of the first record with its line end, its fields, and its problem."""
    position = 0
    fields: list[bytes] = []
    while True:
        field = bytearray()
        if data[position : position + 1] == b'"':
            position += 1
            while data[position : position + 1] != b'"' or data[position + 1 : position + 2] == b'"':
                if position >= len(data):
                    return 0, [], "quote not closed"
                if data[position : position + 1] == b'"':
                    position += 1
                field += data[position : position + 1]
                position += 1
            position += 1
            if data[position : position + 1] not in (b"", delimiter, b"\n", b"\r"):
                return 0, [], "text after a closing quote"
        else:
            while data[position : position + 1] not in (b"", delimiter, b"\n", b"\r"):
                field += data[position : position + 1]
                position += 1
        fields.append(bytes(field))
        if data[position : position + 1] != delimiter:
            return (
                position + (2 if data[position : position + 2] == END else len(data[position : position + 1])),
                fields,
                None,
            )
        position += 1


def _is_row(line: bytes, delimiter: bytes, width: int, timestamp: int) -> bool:
    fields = _without_end(line).split(delimiter)
    return len(fields) == width and re.fullmatch(rb"-?[0-9]+(\.0*)?", fields[timestamp].strip(b'" \t\v\f')) is not None


def _without_end(line: bytes) -> bytes:
    return line.rstrip(END)
