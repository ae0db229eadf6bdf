"""The schema of the interactions of one domain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import ibis
import ibis.expr.datatypes as dt

from tapestry.core.splits import TEST, TRAIN, VALIDATION
from tapestry.ingest.settings import IngestSettings
from tapestry.tables.database import quote
from tapestry.tables.schema import Column, Rule, TableSchema, at_least, in_range, one_of, validate


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
            "user_id": Column(dt.string, [Rule("not blank", lambda column: column.re_search(r"\S"))]),
            "item_id": Column(dt.string, [Rule("not blank", lambda column: column.re_search(r"\S"))]),
            "timestamp": Column(dt.int64, [in_range(first, last - 1)]),
            "rating": Column(dt.float32, [in_range(settings.min_rating, settings.max_rating)], nullable=True),
            "domain": Column(dt.string, [one_of([domain])]),
            "row": Column(dt.int64, [at_least(1)]),
            **{name: _GIVEN[name] for name in settings.given_columns},
            **{f"previous_{key}": Column(nullable=True) for key in keys},
        },
        rules=[Rule("each after the one before", lambda table: _comes_after_previous(table, keys))],
        strict=True,
    )
    validate(connection, {"interactions": schema})


_GIVEN = {
    "position": Column(dt.int64, [at_least(0)]),
    "split": Column(dt.int8, [one_of([TRAIN, VALIDATION, TEST])]),
}


def _comes_after_previous(table: ibis.Table, keys: Sequence[str]) -> ibis.expr.types.BooleanValue:
    """Compare each row with the one before it, by the first of `keys` in which they differ."""
    after = ibis.literal(False)
    for key in reversed(keys):
        value, previous = table[key], table[f"previous_{key}"]
        after = (value > previous) | ((value == previous) & after)
    return table.previous_user_id.isnull() | after
