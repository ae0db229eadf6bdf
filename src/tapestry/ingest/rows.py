"""The interface of the readers of raw files: the columns of a file, and its rows as Arrow batches for DuckDB.

A reader passes on every row, also a row that its parser can't read. It holds one block of the file in memory at a
time, whatever the size of the file and of its lines.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import pyarrow as pa

from tapestry.core.errors import TapestryError
from tapestry.ingest.layouts import Layout

KEYS = ("user", "item", "timestamp", "rating", "position", "split")
"""The fields of an interaction, as the queries name them. A `Layout` gives the name of its column in the file. Position
and split are null unless the layout has them."""
BATCH_ROWS = 1 << 17  # rows of a batch, at most
BLANK_LINE = "blank line"  # reason of quarantine
INVALID_UTF8 = "invalid UTF-8"  # reason of quarantine
_REPLACEMENT = "\ufffd"  # stands for bytes that aren't UTF-8
_WHITESPACE = "".join(filter(str.isspace, map(chr, range(0x3001))))  # all of Unicode's


@dataclass(frozen=True)
class Query:
    """SQL over the batches, which DuckDB sees as the view `raw_rows`.

    `select` parses each row once. The other expressions are over the columns of `select`. `text` is computed only for
    quarantined rows.
    """

    select: str
    """SELECT of row and KEYS (as text), and of the columns that the other fields need."""
    text: str
    """The row as text."""
    problem: str
    """Why the row can't be read, or NULL."""
    unit: Literal["s", "ms"]
    """Unit of the timestamps."""
    kinds: dict[str, str] = field(default_factory=dict)
    """{"user" | "item" | "timestamp": the type of the value}. The expression may also use <key>_text (the value
    without whitespace around it) and <key>_plain (see `plain_id`). A value that is neither text nor a whole number is
    DOUBLE or FLOAT (64 or 32 bits), ROUNDED (in scientific notation), NAN, BOOLEAN, ARRAY, OBJECT or TIME. A value of
    any other type is taken as text."""


class Reader(Protocol):
    """Reads one raw file."""

    schema: pa.Schema
    """Of the batches."""

    @property
    def columns(self) -> list[str]:
        """The names of the file's columns, or the keys of its first JSON objects."""

    def query(self, layout: Layout) -> Query:
        """Make the SQL that turns the batches into fields of interactions."""

    def batches(self, layout: Layout) -> Iterator[pa.RecordBatch]:
        """Yield batches of at most BATCH_ROWS rows.

        Raises:
            TapestryError: the file can't be read any further.
        """

    def rows_left(self) -> int:
        """Return an upper bound of the usable rows that follow the batches yielded so far."""


class RowStream:
    """Batches for DuckDB to scan, and the error that ended them, which DuckDB wraps in one without its type."""

    def __init__(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        self.error: TapestryError | None = None
        self.reader = pa.RecordBatchReader.from_batches(schema, self._watch(batches))

    def _watch(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except TapestryError as error:
            self.error = error
            raise


def column_indices(path: Path, columns: Sequence[str], layout: Layout) -> dict[str, int]:
    """Find the columns of `layout` in a file: {key: index}, without the rating if the file has none.

    Raises:
        TapestryError: a column name occurs more than once.
    """
    indices = {}
    for key, name in layout.by_key.items():
        found = [index for index, column in enumerate(columns) if column == name]
        if len(found) > 1:
            numbers = ", ".join(str(index + 1) for index in found)
            raise TapestryError(
                f"{path}: column {name} is there {len(found)} times (columns {numbers}); rename all but the one that "
                "counts"
            )
        if found:
            indices[key] = found[0]
    return indices


def no_rows_error(path: Path) -> TapestryError:
    """Return the error for a file without rows."""
    return TapestryError(f"{path}: the file holds no rows; fetch or copy it again")


def quoted(key: str) -> str:
    """SQL for the column `key`, whose name may be a word of SQL's own."""
    return f'"{key}"'


def joined_text(keys: Collection[str]) -> str:
    """SQL for the values of `keys`, separated by commas; a missing value is empty."""
    return " || ',' || ".join(f"coalesce(\"{key}\", '')" for key in keys)


def has_replacement(keys: Collection[str]) -> str:
    """SQL for whether a value of `keys` contains U+FFFD, which stands for bytes that aren't UTF-8."""
    return " OR ".join(f"contains(\"{key}\", '{_REPLACEMENT}')" for key in keys) or "false"


def trimmed(text: str) -> str:
    """SQL for a text without Unicode's whitespace around it.

    Plain ASCII is passed through: a search for whitespace in it would cost twice as much as parsing it.
    """
    return f"CASE WHEN regexp_full_match({text}, '[!-~]*') THEN {text} ELSE trim({text}, '{_WHITESPACE}') END"


def plain_id(key: str) -> str:
    """SQL for whether an id consists of capitals and digits, as Amazon's do. Such an id needs no further checks."""
    words = "('NAN', 'INF', 'INFINITY', 'NULL', 'NONE')"
    return f'(regexp_full_match("{key}", \'[A-Z0-9]+\') AND "{key}" NOT IN {words})'
