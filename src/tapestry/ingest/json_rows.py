"""JSON lines as rows: lines as bytes, so that invalid UTF-8 is a bad row and not the end of the file."""

from __future__ import annotations

import ast
import codecs
import itertools
import json
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from tapestry.core.errors import TapestryError
from tapestry.ingest.layouts import Layout
from tapestry.ingest.raw import RawFile
from tapestry.ingest.rows import BATCH_ROWS, Query, trimmed
from tapestry.tables.database import quote

LONGEST_LINE = 1 << 24  # bytes; a longer one comes through cut, but longer than this
_BLOCK_BYTES = 1 << 24
_SNIFFED_LINES = 1000
_SHORTEST_ROW = 16  # bytes of a line with a user, an item and a timestamp, at least
_LONGEST_LITERAL = 1 << 20  # bytes; a literal costs hundreds of times its size to read
_ODD = r"(?is)[\[{].*|true|false|[-+]?(nan|inf|infinity)|[-+]?[0-9]*\.[0-9.e+-]*"


class JsonRows:
    """Batches of (row int64, line binary, json binary), rows counted from 1.

    `json` is null but for a line that is no JSON but a Python literal, as some of the 2014 release are: it is the same
    in JSON.

    Raises:
        TapestryError: a JSON array, or objects spread over several lines.
    """

    schema = pa.schema([("row", pa.int64()), ("line", pa.binary()), ("json", pa.binary())])

    def __init__(self, file: RawFile) -> None:
        self._file = file
        self._blocks = file.blocks(_BLOCK_BYTES)
        self._pending = 0
        if not file.head:
            raise TapestryError(f"{file.path}: the file holds no rows; fetch or copy it again")
        self._lines = file.head.splitlines()[:_SNIFFED_LINES]
        self._refuse_other_json()

    @cached_property
    def columns(self) -> list[str]:
        """The keys of the first objects."""
        found: dict[str, None] = {}
        for line in self._lines:
            value = _read_json(line)
            found |= dict.fromkeys((_read_literal(line) if value is None else value) or {})
        return list(found)

    def query(self, layout: Layout) -> Query:
        names = {"user": layout.user, "item": layout.item, "timestamp": layout.timestamp, "rating": layout.rating}
        paths = {key: f"'$.\"{quote(name)}\"'" for key, name in names.items()}
        text = "coalesce(TRY(decode(line)), decode(line, 'replace'))"
        document = "decode(coalesce(json, line))"
        # An extracted text doesn't tell 1.0 from "1.0" nor a list from its text: only of such is the type asked.
        kinds = {
            key: f"""CASE
                WHEN {key}_plain THEN NULL
                WHEN regexp_full_match({key}_text, '{_ODD}') THEN json_type({document}, {paths[key]})
            END"""
            for key in ("user", "item")
        }
        # Extracted, 1.4e9 is 1400000000.0: the line is searched for that very number with an exponent.
        exponents = (
            f"regexp_extract_all({document}, '\"' || regexp_escape('{quote(layout.timestamp)}') || "
            r"""'"\s*:\s*(-?[0-9.]+[eE][-+]?[0-9]+)', 1)"""
        )
        kinds["timestamp"] = f"""CASE
            WHEN contains(timestamp_text, '.')
                AND list_contains(CAST({exponents} AS DOUBLE[]), TRY_CAST(timestamp_text AS DOUBLE)) THEN 'ROUNDED'
        END"""
        return Query(
            select=f"""
                SELECT row, line, json, f[1] AS "user", f[2] AS item, f[3] AS "timestamp", f[4] AS rating
                FROM (
                    SELECT *, CASE WHEN octet_length(line) > {_SHORTEST_ROW}
                        THEN TRY(json_extract_string({document}, [{", ".join(paths.values())}])) END AS f
                    FROM raw_rows)""",
            text=f"rtrim({text}, '\r\n')",
            problem=f"""CASE
                WHEN octet_length(line) > {LONGEST_LINE} THEN 'longer than {LONGEST_LINE >> 20} MiB'
                WHEN "user" IS NOT NULL AND item IS NOT NULL AND "timestamp" IS NOT NULL THEN NULL
                WHEN octet_length(line) <= 2 AND trim(decode(line, 'replace'), '\r\n') = '' THEN 'blank line'
                WHEN TRY(decode(line)) IS NULL THEN 'invalid UTF-8'
                WHEN {trimmed(text)} = '' THEN 'blank line'
                WHEN "user" IS NULL AND item IS NULL AND "timestamp" IS NULL
                    AND NOT coalesce(TRY(json_type(TRY(decode(line)))) = 'OBJECT', false) THEN 'not a JSON object'
            END""",
            unit=layout.unit,
            kinds=kinds,
        )

    def batches(self, layout: Layout) -> Iterator[pa.RecordBatch]:
        rows = 0
        tail = b""
        for block in itertools.chain(self._blocks, [b""]):
            is_last = not block
            # Of a line that grows too long no more is kept than tells it.
            data = tail[: LONGEST_LINE + 1] + block
            if rows == 0:
                data = data.removeprefix(codecs.BOM_UTF8)
            if is_last and data and not data.endswith(b"\n"):
                data += b"\n"
            ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
            tail = data[ends[-1] + 1 :] if len(ends) else data
            for start in range(0, len(ends), BATCH_ROWS):
                part = ends[start : start + BATCH_ROWS]
                begin = ends[start - 1] + 1 if start else 0
                self._pending = len(data) - int(part[-1])
                yield _split_lines(data, begin, part, rows, self._has_literals)
                rows += len(part)

    def rows_left(self) -> int:
        return (self._pending + self._blocks.left) // _SHORTEST_ROW

    @cached_property
    def _has_literals(self) -> bool:
        """Whether lines are Python's and not JSON's, which is far slower to read."""
        return any(_read_json(line) is None and _read_literal(line) is not None for line in self._lines)

    def _refuse_other_json(self) -> None:
        first = next((line.strip() for line in self._lines if line.strip()), b"")
        if first.startswith(b"["):
            found = "a JSON array"
        elif first.startswith(b"{") and _read_json(first) is None and _spreads(self._file.head):
            found = "JSON objects spread over several lines"
        else:
            return
        raise TapestryError(
            f"{self._file.path}: {found}; one object a line is needed (jq -c '.[]' for an array, jq -c . for objects; "
            'in pandas to_json(orient="records", lines=True))'
        )


def _spreads(head: bytes) -> bool:
    """Whether the first JSON object ends in another line than it begins in."""
    text = head.decode("utf-8", "ignore").lstrip()
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return "\n" in text[:end] or "\r" in text[:end]


def _split_lines(
    data: bytes, begin: int, ends: np.ndarray[Any, Any], before: int, has_literals: bool
) -> pa.RecordBatch:
    """Zero-copy: the block itself is the value buffer, line ends become offsets (newline cut in SQL)."""
    offsets = np.concatenate([[begin], ends + 1]).astype(np.int32)
    lines = pa.Array.from_buffers(pa.binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    rows = pa.array(np.arange(before + 1, before + 1 + len(ends)), pa.int64())
    literals = pa.nulls(len(ends), pa.binary())
    if has_literals:
        literals = pa.array([_literal_as_json(line) for line in lines.to_pylist()], pa.binary())
    return pa.RecordBatch.from_arrays([rows, lines, literals], schema=JsonRows.schema)


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
