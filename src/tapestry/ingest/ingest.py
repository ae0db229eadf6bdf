"""The stage ingest: one domain's raw file → validated interactions, quarantined rows with reasons, and counts.

Columns of the interactions: user_id, item_id (text, as in the source), timestamp (int64, milliseconds since 1970 UTC),
rating (float32, null if the source has none), domain, row (of the raw file, counted from 1). They are ordered by
user_id, timestamp, item_id. Of several rows with the same user, item and timestamp, only the first is an interaction.
With `given_columns`, position (int64) and split (int8, as in sequences.parquet) follow; rows are ordered by position
after item_id, and rows of different positions are different interactions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from tapestry.core.atomic import write_json
from tapestry.ingest.classify import classify
from tapestry.ingest.open_reader import open_reader
from tapestry.ingest.schema import check_interactions
from tapestry.ingest.settings import IngestSettings
from tapestry.tables.database import connect, quote, scalar, write_parquet


def ingest(
    raw: Path, domain: str, settings: IngestSettings, interactions: Path, quarantine: Path, counts: Path
) -> dict[str, Any]:
    """Ingest the raw file `raw` of `domain`; write the two Parquet files and the counts (JSON).

    Returns:
        The counts: rows_in, rows_quarantined, rows_duplicate, interactions, reasons {reason: rows}; with
        rows_in = rows_quarantined + rows_duplicate + interactions.

    Raises:
        TapestryError: an unreadable file, unknown columns, or too large a share of unusable rows.
    """
    reader, layout = open_reader(raw, settings.given_columns)
    with connect(settings.memory_limit, settings.threads) as connection:
        tally = classify(connection, raw, reader, layout, settings)
        reasons = _count_reasons(connection)
        _sort_usable(connection, domain, settings.given_columns)
        duplicates = scalar(connection, "SELECT count(*) FROM ordered WHERE duplicate")
        write_parquet(
            connection,
            "SELECT * EXCLUDE duplicate FROM ordered WHERE NOT duplicate",
            interactions,
            lambda written: check_interactions(connection, written, domain, settings),
        )
        kept = scalar(connection, f"SELECT count(*) FROM read_parquet('{quote(interactions)}')")
        write_parquet(
            connection,
            f"""SELECT '{quote(raw.name)}' AS file, row, reason, text FROM classified
            WHERE reason IS NOT NULL ORDER BY row""",
            quarantine,
        )
    summary: dict[str, Any] = {
        "rows_in": tally.rows,
        "rows_quarantined": tally.unusable,
        "rows_duplicate": duplicates,
        "interactions": kept,
        "reasons": reasons,
    }
    parts = summary["rows_quarantined"] + summary["rows_duplicate"] + summary["interactions"]
    if summary["rows_in"] != parts:
        raise AssertionError(f"{raw.name}: {summary['rows_in']} rows in, but {parts} accounted for")
    write_json(counts, {"file": raw.name, **summary})
    return summary


def _sort_usable(connection: duckdb.DuckDBPyConnection, domain: str, given: tuple[str, ...]) -> None:
    """Make the view `ordered`: the usable rows as sorted interactions, and whether each repeats the row before it.

    One sort gives both the order and the duplicates. DuckDB keeps the order of a table in views of it; the schema
    checks the order. The usable rows are removed from `classified`, to free memory.
    """
    more = "".join(f', "{name}"' for name in given)
    keys = ("user_id", "timestamp", "item_id", *(name for name in given if name == "position"))
    in_order = ", ".join(f'"{key}"' for key in keys)
    connection.execute(
        f"""CREATE TABLE usable AS SELECT row, user_id, item_id, "timestamp", rating{more} FROM classified
        WHERE reason IS NULL ORDER BY {in_order}, row"""
    )
    connection.execute("DELETE FROM classified WHERE reason IS NULL")
    same = " AND ".join(f'"{key}" = lag("{key}") OVER ()' for key in keys)
    connection.execute(
        f"""CREATE VIEW ordered AS SELECT user_id, item_id, "timestamp", rating, '{quote(domain)}' AS domain, row,
            coalesce({same}, false) AS duplicate{more}
        FROM usable"""
    )


def _count_reasons(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Count the quarantined rows by reason, ordered by reason."""
    return dict(
        connection.execute(
            "SELECT reason, count(*) FROM classified WHERE reason IS NOT NULL GROUP BY reason ORDER BY reason"
        ).fetchall()
    )
