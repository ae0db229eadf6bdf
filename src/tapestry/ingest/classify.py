"""Classifies each row of a raw file: the fields of an interaction, or the reason why the row is unusable.

Batches are classified in groups, each larger than the group before. So a file with too many unusable rows is given up
early, whatever its size.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import duckdb

from tapestry.core.errors import TapestryError, one_line
from tapestry.core.splits import TEST, TRAIN, VALIDATION
from tapestry.ingest.layouts import Layout
from tapestry.ingest.rows import BLANK_LINE, Query, Reader, RowStream, no_rows_error, plain_id, trimmed
from tapestry.ingest.settings import IngestSettings

QUARANTINED_CHARACTERS = 500
_GROWTH = 8  # how many times more batches a group has than the group before; each group costs some 50 ms
_SHOWN_ROWS = 3
_SHOWN_CHARACTERS = 200
_UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}  # nanoseconds
_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_FIXES = {  # by a part of the reason
    "timestamp out of range": "ingest.first_year and ingest.last_year say which times are plausible",
    "timestamp is not a whole number": "Write times as whole numbers since 1970 UTC, or as Parquet timestamps",
    "position": "Number a user's interactions over all domains by whole numbers from 0",
    "split": "Write train, validation or test",
    "rating is not a number": "Write ratings as numbers, with a point before decimals",
    "in scientific notation": "Save the column with all its digits (in a spreadsheet: as a number without decimals)",
    "timestamp in ": "Convert the timestamps to the unit that is expected",
    "float": "Save the column as whole numbers or as text",
    "invalid UTF-8": "Save the file as UTF-8 (iconv -f LATIN1 -t UTF-8)",
    "quote": 'Write a quote inside a field as two, in a field in quotes: "12"" disc"',
}


@dataclass(frozen=True)
class Tally:
    """Counts of classified rows."""

    rows: int
    """All rows."""
    unusable: int
    """Rows that are no interactions; blank lines included."""
    blank: int
    """Blank lines."""

    def exceeds(self, allowed: float, rows_left: int = 0) -> bool:
        """Whether the share of unusable rows is above `allowed`, even if the next `rows_left` rows are all usable.

        Blank lines hold no data, so only those above the number of the other rows count as unusable.
        """
        others = self.rows - self.blank + rows_left
        counted = self.unusable - self.blank + max(0, self.blank - others)
        return counted > allowed * (self.rows + rows_left)


def classify(
    connection: duckdb.DuckDBPyConnection, path: Path, reader: Reader, layout: Layout, settings: IngestSettings
) -> Tally:
    """Make the table `classified`, with one row for each row of the file, and count its rows.

    Its columns are row, user_id, item_id, timestamp (milliseconds), rating, position, split, reason and text. An
    unusable row has a reason and its text; a usable row has neither. Position and split are null unless they are given.

    Raises:
        TapestryError: an unreadable file, or too large a share of unusable rows, raised as soon as that is certain.
    """
    connection.execute(
        """CREATE TABLE classified
        (row BIGINT, user_id VARCHAR, item_id VARCHAR, timestamp BIGINT, rating FLOAT, position BIGINT, split TINYINT,
        reason VARCHAR, text VARCHAR)"""
    )
    insert = f"INSERT INTO classified {_classification(reader.query(layout), layout.given, settings)}"
    batches = reader.batches(layout)
    tally = Tally(0, 0, 0)
    size = 1
    while (first := next(batches, None)) is not None:
        stream = RowStream(reader.schema, itertools.chain([first], itertools.islice(batches, size - 1)))
        connection.register("raw_rows", stream.reader)
        try:
            connection.execute(insert)
        except duckdb.Error as error:
            if stream.error is None:
                raise
            raise stream.error from error
        tally = _count(connection)
        rows_left = reader.rows_left()
        if tally.exceeds(settings.max_quarantine_share, rows_left):
            raise _too_many_unusable(connection, path, tally, settings, is_complete=rows_left == 0)
        size *= _GROWTH
    if tally.rows == 0:
        raise no_rows_error(path)
    if tally.exceeds(settings.max_quarantine_share) or tally.unusable == tally.rows:
        raise _too_many_unusable(connection, path, tally, settings, is_complete=True)
    return tally


def _classification(query: Query, given: tuple[str, ...], settings: IngestSettings) -> str:
    """SQL for the rows of `classified`, from the batches in `raw_rows`."""
    given_problems = " ".join(_GIVEN_PROBLEMS[name] for name in given)
    first, last = settings.time_range()
    scale = _UNITS[query.unit] // _UNITS["ms"]
    other_units = " ".join(
        f"WHEN time * {size / _UNITS['ms']} >= {first} AND time * {size / _UNITS['ms']} < {last} "
        f"THEN 'timestamp in {_UNIT_NAMES[unit]}, {_UNIT_NAMES[query.unit]} expected'"
        for unit, size in _UNITS.items()
        if unit != query.unit
    )
    # One subquery a step: DuckDB would compute, and plan, a column again if it were used in its own SELECT.
    return f"""
        WITH fields AS ({query.select}),
        texts AS (
            SELECT *, {query.problem} AS problem,
                {plain_id("user")} AS user_plain, {plain_id("item")} AS item_plain,
                regexp_full_match("timestamp", '[0-9]+') AS timestamp_plain
            FROM fields),
        trimmed AS (
            SELECT *,
                CASE WHEN user_plain THEN "user" ELSE {trimmed('"user"')} END AS user_text,
                CASE WHEN item_plain THEN item ELSE {trimmed("item")} END AS item_text,
                CASE WHEN timestamp_plain THEN "timestamp" ELSE {trimmed('"timestamp"')} END AS timestamp_text,
                {trimmed("rating")} AS rating_text
            FROM texts),
        typed AS (
            SELECT *, {query.kinds.get("user", "NULL")} AS user_kind, {query.kinds.get("item", "NULL")} AS item_kind,
                TRY_CAST(timestamp_text AS DOUBLE) AS time,
                coalesce(
                    {query.kinds.get("timestamp", "NULL")},
                    CASE
                        WHEN timestamp_plain OR regexp_full_match(timestamp_text, '[-+]?[0-9]+(\\.0*)?') THEN NULL
                        ELSE 'ROUNDED'
                    END
                ) AS timestamp_kind,
                CASE WHEN NOT contains(rating_text, '_') THEN TRY_CAST(rating_text AS FLOAT) END AS rating_value
            FROM trimmed),
        numbered AS (SELECT *, {_id_number("user")}, {_id_number("item")} FROM typed),
        checked AS (SELECT *, {_id_problem("user")}, {_id_problem("item")} FROM numbered),
        with_reason AS (
            SELECT *,
                CASE
                    WHEN problem IS NOT NULL THEN problem
                    WHEN user_problem IS NOT NULL THEN user_problem
                    WHEN item_problem IS NOT NULL THEN item_problem
                    WHEN timestamp_text IS NULL OR timestamp_text = '' THEN 'missing timestamp'
                    WHEN time IS NULL OR NOT isfinite(time) OR time <> floor(time) OR contains(timestamp_text, '_')
                        THEN 'timestamp is not a whole number'
                    WHEN time * {scale} >= {first} AND time * {scale} < {last} THEN
                        CASE
                            WHEN timestamp_kind = 'ROUNDED' THEN 'timestamp in scientific notation, which rounds it'
                            WHEN timestamp_kind = 'FLOAT' THEN 'timestamp is a 32-bit float, which rounds it'
                            {given_problems}
                            WHEN rating_text IS NULL OR rating_text = '' THEN NULL
                            WHEN rating_value IS NULL OR isnan(rating_value) THEN 'rating is not a number'
                            WHEN rating_value < {settings.min_rating} OR rating_value > {settings.max_rating}
                                THEN 'rating out of range'
                        END
                    {other_units}
                    ELSE 'timestamp out of range'
                END AS reason
            FROM checked)
        SELECT row, {_id_value("user")}, {_id_value("item")},
            CASE WHEN reason IS NULL THEN CAST(time * {scale} AS BIGINT) END, rating_value,
            CASE WHEN reason IS NULL THEN {_POSITION} END, CASE WHEN reason IS NULL THEN {_SPLIT} END, reason,
            CASE WHEN reason IS NOT NULL THEN ({query.text})[:{QUARANTINED_CHARACTERS}] END
        FROM with_reason"""


_POSITION = 'TRY_CAST(trim("position") AS BIGINT)'
_SPLIT = f"""CASE lower(trim("split"))
    WHEN 'train' THEN {TRAIN}
    WHEN 'validation' THEN {VALIDATION} WHEN 'valid' THEN {VALIDATION} WHEN 'val' THEN {VALIDATION}
    WHEN 'test' THEN {TEST}
END"""
_GIVEN_PROBLEMS = {  # why a given column can't be used
    "position": """WHEN NOT coalesce(regexp_full_match(trim("position"), '[0-9]{1,18}'), false)
        THEN 'position is not a whole number'""",
    "split": f"WHEN {_SPLIT} IS NULL THEN 'split is not train, validation or test'",
}


def _id_number(key: str) -> str:
    """SQL for the value of a float, and the bits of its significand, which bound the whole numbers that it can hold."""
    return f"""
        CASE WHEN {key}_kind IN ('DOUBLE', 'FLOAT') THEN TRY_CAST({key}_text AS DOUBLE) END AS {key}_number,
        CASE {key}_kind WHEN 'FLOAT' THEN 24 ELSE 53 END AS {key}_bits"""


def _id_problem(key: str) -> str:
    """SQL for the reason why a value is no id; NULL if it is one."""
    not_scalar = {"BOOLEAN": "true or false", "ARRAY": "a list", "OBJECT": "an object", "TIME": "a time"}
    not_scalar_cases = " ".join(
        f"WHEN '{kind}' THEN '{key} is {what}, not text or a number'" for kind, what in not_scalar.items()
    )
    return f"""
        CASE
            WHEN {key}_plain AND {key}_kind IS NULL THEN NULL
            WHEN {key}_text IS NULL OR {key}_text = '' THEN 'missing {key}'
            WHEN {key}_number IS NOT NULL THEN
                CASE
                    WHEN isnan({key}_number) THEN 'missing {key} (NaN)'
                    WHEN NOT isfinite({key}_number) OR {key}_number <> floor({key}_number)
                        THEN '{key} is not a whole number'
                    WHEN abs({key}_number) > 2 ** {key}_bits
                        THEN '{key} is a float above 2^' || {key}_bits || ', which rounds it'
                END
            ELSE
                CASE {key}_kind
                    WHEN 'NAN' THEN 'missing {key} (NaN)'
                    WHEN 'ROUNDED' THEN '{key} is a number in scientific notation, which rounds it'
                    {not_scalar_cases}
                END
        END AS {key}_problem"""


def _id_value(key: str) -> str:
    """SQL for the id. A float becomes a whole number, so that 1.0 in one file equals 1 in another."""
    return f"""CASE
        WHEN reason IS NULL AND {key}_number IS NOT NULL THEN CAST(CAST({key}_number AS BIGINT) AS VARCHAR)
        ELSE {key}_text
    END"""


def _count(connection: duckdb.DuckDBPyConnection) -> Tally:
    # fetchall, not fetchone: DuckDB registers no new reader while a result of the connection is unfinished.
    (counts,) = connection.execute(
        f"SELECT count(*), count(reason), count(*) FILTER (WHERE reason = '{BLANK_LINE}') FROM classified"
    ).fetchall()
    return Tally(*counts)


def _too_many_unusable(
    connection: duckdb.DuckDBPyConnection, path: Path, tally: Tally, settings: IngestSettings, is_complete: bool
) -> TapestryError:
    """Make the error for too many unusable rows: it shows the first of them, and the fix of the most common reason.

    Args:
        is_complete: whether the whole file has been classified.
    """
    shown = connection.execute(
        f"SELECT row, reason, text FROM classified WHERE reason IS NOT NULL ORDER BY row LIMIT {_SHOWN_ROWS}"
    ).fetchall()
    (reason, low, high) = connection.execute(
        """SELECT reason, min(rating), max(rating) FROM classified WHERE reason IS NOT NULL
        GROUP BY reason ORDER BY count(*) DESC, reason LIMIT 1"""
    ).fetchall()[0]
    fix = next((fix for part, fix in _FIXES.items() if part in reason), "Fix the file")
    if reason == "rating out of range":
        fix = (
            f"Ratings from {low:g} to {high:g} are beyond ingest.min_rating and ingest.max_rating "
            f"({settings.min_rating:g} to {settings.max_rating:g}): set these to the file's scale (min_rating to 0 "
            "where 0 means not rated), which keeps the rows"
        )
    rows = f"{tally.rows} rows" if is_complete else f"the first {tally.rows} rows"
    allowed = f"allows {settings.max_quarantine_share:.1%}" + (
        "" if is_complete else " of the file, which can't be met any more"
    )
    first = "\n".join(f"  row {row}: {why}: {one_line(text, _SHOWN_CHARACTERS)}" for row, why, text in shown)
    return TapestryError(
        f"{path}: {tally.unusable} of {rows} can't be used ({tally.unusable / tally.rows:.1%}; "
        f"ingest.max_quarantine_share {allowed}). The first:\n{first}\n{fix}, or raise ingest.max_quarantine_share, "
        "which drops them."
    )
