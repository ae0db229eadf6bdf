"""Reader of JSON lines. It reads lines as bytes, so invalid UTF-8 is a bad row and doesn't end the file."""

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

from tapestry.core.arrow import integers
from tapestry.core.errors import TapestryError
from tapestry.ingest.layouts import Layout
from tapestry.ingest.raw import RawFile
from tapestry.ingest.rows import BATCH_ROWS, BLANK_LINE, INVALID_UTF8, KEYS, Query, no_rows_error, quoted, trimmed
from tapestry.tables.database import quote

LONGEST_LINE = 1 << 24  # bytes; a longer line is cut, but stays longer than this
_BLOCK_BYTES = 1 << 24
_SNIFFED_LINES = 1000
_SHORTEST_ROW = 16  # bytes; no line with a user, an item and a timestamp is shorter
_LONGEST_LITERAL = 1 << 20  # bytes; to parse a literal takes hundreds of times its size of memory
# Text of a value that may not have been text in JSON: a list, an object, true, false, or a float.
_AMBIGUOUS = r"(?is)[\[{].*|true|false|[-+]?(nan|inf|infinity)|[-+]?[0-9]*\.[0-9.e+-]*"


class JsonRows:
    """Batches of (row int64, line binary, json binary). Rows are counted from 1.

    Some files of the 2014 release have Python literals in place of JSON, such as {'asin': 'B1'}. For such a line `json`
    is the same value in JSON. For all other lines it is null.

    Raises:
        TapestryError: a JSON array, or objects spread over several lines.
    """

    schema = pa.schema([("row", pa.int64()), ("line", pa.binary()), ("json", pa.binary())])

    def __init__(self, file: RawFile) -> None:
        self._file = file
        self._blocks = file.blocks(_BLOCK_BYTES)
        self._bytes_pending = 0  # of the current block, behind the last batch
        if not file.head:
            raise no_rows_error(file.path)
        self._first_lines = file.head.splitlines()[:_SNIFFED_LINES]
        self._refuse_other_json()

    @cached_property
    def columns(self) -> list[str]:
        """The keys of the objects in the first lines."""
        found: dict[str, None] = {}
        for line in self._first_lines:
            value = _read_json(line)
            found |= dict.fromkeys((_read_literal(line) if value is None else value) or {})
        return list(found)

    def query(self, layout: Layout) -> Query:
        paths = {key: f"'$.\"{quote(name)}\"'" for key, name in layout.by_key.items()}
        fields = [f"f[{number}] AS {quoted(key)}" for number, key in enumerate(paths, start=1)]
        fields += [f"CAST(NULL AS VARCHAR) AS {quoted(key)}" for key in KEYS if key not in paths]
        text = "coalesce(TRY(decode(line)), decode(line, 'replace'))"
        document = "decode(coalesce(json, line))"
        # Extraction gives the same text for 1.0 and "1.0", and for a list and its text. Only for such texts is the type
        # looked up, since that parses the line again.
        kinds = {
            key: f"""CASE
                WHEN {key}_plain THEN NULL
                WHEN regexp_full_match({key}_text, '{_AMBIGUOUS}') THEN json_type({document}, {paths[key]})
            END"""
            for key in ("user", "item")
        }
        # Extraction turns 1.4e9 into 1400000000.0, so search the line for the same number with an exponent.
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
                SELECT row, line, json, {", ".join(fields)}
                FROM (
                    SELECT *, CASE WHEN octet_length(line) > {_SHORTEST_ROW}
                        THEN TRY(json_extract_string({document}, [{", ".join(paths.values())}])) END AS f
                    FROM raw_rows)""",
            text=f"rtrim({text}, '\r\n')",
            problem=f"""CASE
                WHEN octet_length(line) > {LONGEST_LINE} THEN 'longer than {LONGEST_LINE >> 20} MiB'
                WHEN "user" IS NOT NULL AND item IS NOT NULL AND "timestamp" IS NOT NULL THEN NULL
                WHEN octet_length(line) <= 2 AND trim(decode(line, 'replace'), '\r\n') = '' THEN '{BLANK_LINE}'
                WHEN TRY(decode(line)) IS NULL THEN '{INVALID_UTF8}'
                WHEN {trimmed(text)} = '' THEN '{BLANK_LINE}'
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
            # To bound the memory, cut a line that is too long. It stays longer than LONGEST_LINE, so it is refused.
            data = tail[: LONGEST_LINE + 1] + block
            if rows == 0:
                data = data.removeprefix(codecs.BOM_UTF8)
            if is_last and data and not data.endswith(b"\n"):
                data += b"\n"
            ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
            tail = data[ends[-1] + 1 :] if len(ends) else data
            for start in range(0, len(ends), BATCH_ROWS):
                batch = ends[start : start + BATCH_ROWS]
                begin = ends[start - 1] + 1 if start else 0
                self._bytes_pending = len(data) - int(batch[-1])
                yield _split_lines(data, begin, batch, rows, self._has_literals)
                rows += len(batch)

    def rows_left(self) -> int:
        return (self._bytes_pending + self._blocks.max_bytes_left) // _SHORTEST_ROW

    @cached_property
    def _has_literals(self) -> bool:
        """Whether some of the first lines are Python literals. Only then look for literals, which is far slower."""
        return any(_read_json(line) is None and _read_literal(line) is not None for line in self._first_lines)

    def _refuse_other_json(self) -> None:
        """Raise if the file is JSON, but not one object a line."""
        first = next((line.strip() for line in self._first_lines if line.strip()), b"")
        if first.startswith(b"["):
            found = "a JSON array"
        elif first.startswith(b"{") and _read_json(first) is None and _spans_lines(self._file.head):
            found = "JSON objects spread over several lines"
        else:
            return
        raise TapestryError(
            f"{self._file.path}: {found}; one object a line is needed (jq -c '.[]' for an array, jq -c . for objects; "
            'in pandas to_json(orient="records", lines=True))'
        )


def _spans_lines(head: bytes) -> bool:
    """Whether the first JSON object ends on a later line than it starts on."""
    text = head.decode("utf-8", "ignore").lstrip()
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return "\n" in text[:end] or "\r" in text[:end]


def _split_lines(
    data: bytes, begin: int, ends: np.ndarray[Any, Any], rows_before: int, has_literals: bool
) -> pa.RecordBatch:
    """Make a batch of lines without a copy: `data` is the value buffer, and the line ends are the offsets.

    Each value still has its line end, which the SQL removes.
    """
    offsets = np.concatenate([[begin], ends + 1]).astype(np.int32)
    lines = pa.Array.from_buffers(pa.binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    rows = integers(np.arange(rows_before + 1, rows_before + 1 + len(ends)))
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
    except (TypeError, ValueError):  # a value that JSON can't represent, such as bytes
        return None
