"""What interactions and sequences must be, as Pandera schemas checked in DuckDB by SQL.

Pandera's `Column(unique=True)` lets duplicates through on Ibis tables and `coerce` does nothing there, so
uniqueness is a schema-level rule and types are compared as they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.datatypes as dt
import pandera.ibis as pa
from pandera.errors import SchemaErrors

from tapestry.config import IngestConfig
from tapestry.data.database import quote
from tapestry.errors import TapestryError

_SHOWN_FAILURES = 5


def check_interactions(connection: duckdb.DuckDBPyConnection, written: Path, domain: str, config: IngestConfig) -> None:
    """Check the Parquet file of one domain's interactions, in the order in which they are written.

    That each row comes after the one before it says both that they are in order and that none is there twice.

    Raises:
        TapestryError: a rule is broken; lists each broken rule with some of the values that break it.
    """
    keys = ("user_id", "timestamp", "item_id")
    connection.execute(
        f"""CREATE OR REPLACE TEMP VIEW interactions AS
        SELECT * EXCLUDE (file_row_number), {", ".join(f'lag("{key}") OVER () AS "previous_{key}"' for key in keys)}
        FROM read_parquet('{quote(written)}', file_row_number = true)"""
    )
    first, last = config.time_range()
    schema = pa.DataFrameSchema(
        {
            "user_id": pa.Column(dt.String, _holds("not blank", lambda column: column.re_search(r"\S"))),
            "item_id": pa.Column(dt.String, _holds("not blank", lambda column: column.re_search(r"\S"))),
            "timestamp": pa.Column(dt.Int64, pa.Check.in_range(first, last, include_max=False)),
            "rating": pa.Column(dt.Float32, pa.Check.in_range(config.min_rating, config.max_rating), nullable=True),
            "domain": pa.Column(dt.String, pa.Check.equal_to(domain)),
            "row": pa.Column(dt.Int64, pa.Check.ge(1)),
            **{f"previous_{key}": pa.Column(nullable=True) for key in keys},
        },
        checks=[_compares("each after the one before", _after_the_one_before)],
        strict=True,
    )
    _validate(connection, "interactions", schema)


def _after_the_one_before(table: ibis.Table) -> ibis.expr.types.BooleanValue:
    user, time = table.user_id == table.previous_user_id, table.timestamp == table.previous_timestamp
    return (
        table.previous_user_id.isnull()
        | (table.user_id > table.previous_user_id)
        | (user & (table.timestamp > table.previous_timestamp))
        | (user & time & (table.item_id > table.previous_item_id))
    )


def check_sequences(connection: duckdb.DuckDBPyConnection, domains: int) -> None:
    """Check tables `sequences`, `users` and `items` against themselves and each other.

    Each rule about other rows (sorted by time, test after training, length) is a comparison of two columns
    of a view that puts the other rows' value beside the row's own.

    Raises:
        TapestryError: a rule is broken.
    """
    connection.execute(
        """CREATE OR REPLACE TEMP VIEW sequences_with_neighbours AS
        SELECT s.*, i.domain AS item_domain, u.length, u."offset" + s.position AS place,
            row_number() OVER (ORDER BY s."user", s.position) - 1 AS expected_place,
            lag(s.timestamp) OVER user_order AS previous_timestamp,
            lag(s.split) OVER user_order AS previous_split
        FROM sequences s LEFT JOIN items i USING (item) LEFT JOIN users u USING ("user")
        WINDOW user_order AS (PARTITION BY s."user" ORDER BY s.position)"""
    )
    connection.execute(
        """CREATE OR REPLACE TEMP VIEW users_counted AS
        SELECT users.*, row_number() OVER (ORDER BY "user") - 1 AS expected_user, interactions
        FROM users LEFT JOIN (SELECT "user", count(*) AS interactions FROM sequences GROUP BY "user") USING ("user")"""
    )
    connection.execute(
        """CREATE OR REPLACE TEMP VIEW items_counted AS
        SELECT items.*, row_number() OVER (ORDER BY item) - 1 AS expected_item,
            lag(domain) OVER (ORDER BY item) AS previous_domain, trained
        FROM items LEFT JOIN (
            SELECT item, count(*) FILTER (split = 0) AS trained FROM sequences GROUP BY item
        ) USING (item)"""
    )
    sequences = pa.DataFrameSchema(
        {
            "user": pa.Column(dt.Int32, pa.Check.ge(0)),
            "position": pa.Column(dt.Int32, pa.Check.ge(0)),
            "item": pa.Column(dt.Int32, pa.Check.ge(0)),
            "domain": pa.Column(dt.Int16, pa.Check.in_range(0, domains, include_max=False)),
            "timestamp": pa.Column(dt.Int64),
            "split": pa.Column(dt.Int8, pa.Check.isin([0, 1, 2])),
            "item_domain": pa.Column(dt.Int16),
            "length": pa.Column(dt.Int32, pa.Check.ge(1)),
        },
        checks=[
            _compares("item of its domain", lambda t: t.domain == t.item_domain),
            _compares("sorted by time", lambda t: (t.timestamp >= t.previous_timestamp).fill_null(True)),
            _compares("test after training", lambda t: (t.split >= t.previous_split).fill_null(True)),
            _compares("position within length", lambda t: t.position < t.length),
            _compares("offsets consistent", lambda t: t.place == t.expected_place),
        ],
        unique=["user", "position"],
    )
    users = pa.DataFrameSchema(
        {
            "user": pa.Column(dt.Int32, pa.Check.ge(0)),
            "user_id": pa.Column(dt.String),
            "offset": pa.Column(dt.Int64, pa.Check.ge(0)),
            "length": pa.Column(dt.Int32, pa.Check.ge(1)),
            "interactions": pa.Column(dt.Int64),
        },
        checks=[
            _compares("user ids contiguous", lambda t: t.user == t.expected_user),
            _compares("length counted", lambda t: t.length == t.interactions),
        ],
        unique=["user_id"],
    )
    items = pa.DataFrameSchema(
        {
            "item": pa.Column(dt.Int32, pa.Check.ge(0)),
            "item_id": pa.Column(dt.String),
            "domain": pa.Column(dt.Int16, pa.Check.in_range(0, domains, include_max=False)),
            "train_count": pa.Column(dt.Int64, pa.Check.ge(0)),
            "trained": pa.Column(dt.Int64),
        },
        checks=[
            _compares("item ids contiguous", lambda t: t.item == t.expected_item),
            _compares("contiguous by domain", lambda t: (t.domain >= t.previous_domain).fill_null(True)),
            _compares("training interactions counted", lambda t: t.train_count == t.trained),
        ],
        unique=["item_id"],
    )
    _validate(connection, "sequences_with_neighbours", sequences)
    _validate(connection, "users_counted", users)
    _validate(connection, "items_counted", items)


def _holds(name: str, rule: Any) -> pa.Check:
    return pa.Check(lambda data: rule(data.table[data.key]), name=name)


def _compares(name: str, rule: Any) -> pa.Check:
    return pa.Check(lambda data: rule(data.table), name=name)


def _validate(connection: duckdb.DuckDBPyConnection, table: str, schema: pa.DataFrameSchema) -> None:
    for part in (schema, *schema.columns.values()):
        for check in part.checks:
            check.n_failure_cases = _SHOWN_FAILURES
    try:
        schema.validate(ibis.duckdb.from_connection(connection).table(table), lazy=True)
    except SchemaErrors as errors:
        found = [f"  {error['check']}: {error['error']}" for kind in _groups(errors) for error in kind]
        raise TapestryError(f"table {table} breaks its schema:\n" + "\n".join(found)) from errors


def _groups(errors: SchemaErrors) -> list[list[dict[str, Any]]]:
    return [rows for part in json.loads(str(errors)).values() for rows in part.values()]
