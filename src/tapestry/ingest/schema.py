"""The schema of the interactions of one domain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb

from tapestry.core.splits import TEST, TRAIN, VALIDATION
from tapestry.ingest.settings import IngestSettings
from tapestry.tables.database import quote
from tapestry.tables.schema import Column, Rule, TableSchema, at_least, in_range, not_blank, one_of, validate


def check_interactions(
    connection: duckdb.DuckDBPyConnection, written: Path, domain: str, settings: IngestSettings
) -> None:
    """Check the Parquet file `written` of one domain's interactions.

    Each row must come after the row before it in the order of user_id, timestamp, item_id (and a given position). This
    holds only if the rows are sorted and none is a duplicate.

    Raises:
        TapestryError: a rule is broken; lists each broken rule with some of the values that break it.
    """
    keys = ["user_id", "timestamp", "item_id", *(name for name in settings.given_columns if name == "position")]
    connection.execute(
        f"""CREATE OR REPLACE TEMP VIEW interactions AS
        SELECT * EXCLUDE (file_row_number), {", ".join(f'lag("{key}") OVER () AS "previous_{key}"' for key in keys)}
        FROM read_parquet('{quote(written)}', file_row_number = true)"""
    )
    first, last = settings.time_range()
    schema = TableSchema(
        {
            "user_id": Column("VARCHAR", [not_blank()]),
            "item_id": Column("VARCHAR", [not_blank()]),
            "timestamp": Column("BIGINT", [in_range(first, last - 1)]),
            "rating": Column("FLOAT", [in_range(settings.min_rating, settings.max_rating)], nullable=True),
            "domain": Column("VARCHAR", [one_of([domain])]),
            "row": Column("BIGINT", [at_least(1)]),
            **{name: _GIVEN[name] for name in settings.given_columns},
            **{f"previous_{key}": Column(nullable=True) for key in keys},
        },
        rules=[Rule("each after the one before", _comes_after_previous(keys))],
        strict=True,
    )
    validate(connection, {"interactions": schema})


_GIVEN = {
    "position": Column("BIGINT", [at_least(0)]),
    "split": Column("TINYINT", [one_of([TRAIN, VALIDATION, TEST])]),
}


def _comes_after_previous(keys: Sequence[str]) -> str:
    """Compare each row with the one before it, by the first of `keys` in which they differ."""
    after = "false"
    for key in reversed(keys):
        after = f'"{key}" > "previous_{key}" OR ("{key}" = "previous_{key}" AND ({after}))'
    return f"previous_user_id IS NULL OR {after}"
