"""What every reader of raw files gives: its columns, and its rows as Arrow batches that DuckDB scans.

Every row reaches the caller, also those that no parser likes. What is held at a time is a block, whatever the file and
its lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import pyarrow as pa

from tapestry.core.errors import TapestryError
from tapestry.ingest.layouts import Layout

BATCH_ROWS = 1 << 17  # rows of a batch, at most
_BLANKS = "".join(filter(str.isspace, map(chr, range(0x3001))))  # all that Unicode has


@dataclass(frozen=True)
class Query:
    """SQL over the batches, which it calls `source`. A row is parsed once; `text` and `problem` are of the columns of
    `select`, and text is made for those rows alone that are quarantined.

    select: row, user, item, timestamp, rating (as text), and what the others need.
    problem: why the row can't be read, or NULL.
    kinds: {"user" | "item" | "timestamp": SQL for what the value is}, of `select`'s columns, <key>_text (the value's
    text without blanks around it) and <key>_plain (see `plain_id`). What is no text or whole number is called DOUBLE
    or FLOAT (64 or 32 bits), ROUNDED (in scientific notation), NAN, BOOLEAN, ARRAY, OBJECT or TIME; any other kind is
    taken as its text.
    unit: of the timestamps.
    """

    select: str
    text: str
    problem: str
    unit: Literal["s", "ms"]
    kinds: dict[str, str] = field(default_factory=dict)


class Reader(Protocol):
    """Reads one raw file."""

    schema: pa.Schema

    @property
    def columns(self) -> list[str]:
        """The names that the file gives its columns, or the keys of its first objects."""

    def query(self, layout: Layout) -> Query: ...

    def batches(self, layout: Layout) -> Iterator[pa.RecordBatch]:
        """Of `schema`, each of BATCH_ROWS rows at most."""

    def rows_left(self) -> int:
        """How many usable rows may still come, at most, after the batches that were given."""


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


def trimmed(text: str) -> str:
    """SQL for a text without Unicode's blanks around it; to look for them in plain ASCII costs twice the parsing."""
    return f"CASE WHEN regexp_full_match({text}, '[!-~]*') THEN {text} ELSE trim({text}, '{_BLANKS}') END"


def plain_id(key: str) -> str:
    """SQL for whether an id is of capitals and digits, as Amazon's are, which needs no further look."""
    words = "('NAN', 'INF', 'INFINITY', 'NULL', 'NONE')"
    return f'(regexp_full_match("{key}", \'[A-Z0-9]+\') AND "{key}" NOT IN {words})'
