"""One domain's raw file → validated interactions, a quarantine with reasons, and counts that add up.

interactions: user_id, item_id (text, the source's own), timestamp (int64, milliseconds since 1970 UTC),
rating (float32, null where the source has none), domain, row (of the raw file, from 1); ordered by
user_id, timestamp, item_id. The same user, item and timestamp is kept once: its first row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from tapestry.core.atomic import write_json
from tapestry.ingest.classify import classify, open_reader
from tapestry.ingest.schema import check_interactions
from tapestry.ingest.settings import IngestSettings
from tapestry.tables.database import connect, count_rows, quote, scalar, write_parquet


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
    reader, layout = open_reader(raw)
    with connect(settings.memory_limit, settings.threads) as connection:
        classify(connection, raw, reader, layout, settings)
        summary = _count(connection)
        _order(connection, domain)
        summary["rows_duplicate"] = scalar(connection, "SELECT count(*) FROM ordered WHERE duplicate")
        write_parquet(
            connection,
            "SELECT * EXCLUDE duplicate FROM ordered WHERE NOT duplicate",
            interactions,
            lambda written: check_interactions(connection, written, domain, settings),
        )
        summary["interactions"] = count_rows(interactions)
        write_parquet(
            connection,
            f"""SELECT '{quote(raw.name)}' AS file, row, reason, text FROM classified
            WHERE reason IS NOT NULL ORDER BY row""",
            quarantine,
        )
    parts = summary["rows_quarantined"] + summary["rows_duplicate"] + summary["interactions"]
    if summary["rows_in"] != parts:
        raise AssertionError(f"{raw.name}: {summary['rows_in']} rows in, but {parts} accounted for")
    write_json(counts, {"file": raw.name, **summary})
    return summary


def _order(connection: duckdb.DuckDBPyConnection, domain: str) -> None:
    """View `ordered`: the usable rows as interactions, in their order, and whether each repeats the one before.

    One sort serves order and duplicates. DuckDB keeps a table's order in views of it; the schema checks it.
    """
    connection.execute(
        """CREATE TABLE usable AS SELECT row, user_id, item_id, "timestamp", rating FROM classified
        WHERE reason IS NULL ORDER BY user_id, "timestamp", item_id, row"""
    )
    connection.execute("DELETE FROM classified WHERE reason IS NULL")
    same = " AND ".join(f'"{key}" = lag("{key}") OVER ()' for key in ("user_id", "item_id", "timestamp"))
    connection.execute(
        f"""CREATE VIEW ordered AS SELECT user_id, item_id, "timestamp", rating, '{quote(domain)}' AS domain, row,
            coalesce({same}, false) AS duplicate
        FROM usable"""
    )


def _count(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    reasons = connection.execute(
        "SELECT reason, count(*) FROM classified WHERE reason IS NOT NULL GROUP BY reason ORDER BY reason"
    ).fetchall()
    return {
        "rows_in": scalar(connection, "SELECT count(*) FROM classified"),
        "rows_quarantined": sum(rows for _, rows in reasons),
        "rows_duplicate": 0,
        "interactions": 0,
        "reasons": dict(reasons),
    }
