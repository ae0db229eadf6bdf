"""What interactions and sequences must be, as Pandera schemas checked in DuckDB by SQL.

Pandera's `Column(unique=True)` lets duplicates through on Ibis tables and `coerce` does nothing there, so
uniqueness is a schema-level rule and types are compared as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

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
    _validate(connection, {"interactions": schema})


def _after_the_one_before(table: ibis.Table) -> ibis.expr.types.BooleanValue:
    user, time = table.user_id == table.previous_user_id, table.timestamp == table.previous_timestamp
    return (
        table.previous_user_id.isnull()
        | (table.user_id > table.previous_user_id)
        | (user & (table.timestamp > table.previous_timestamp))
        | (user & time & (table.item_id > table.previous_item_id))
    )


def check_sequences(
    connection: duckdb.DuckDBPyConnection, domains: int, item_identity: Literal["global", "domain"]
) -> None:
    """Check `sequences`, `users` and `items`, in the order of their rows, against themselves and each other.

    Each rule about other rows (sorted by time, test after training, length) is a comparison of two columns
    of a view that puts the other rows' value beside the row's own. No interaction is there twice, as positions
    count up from 0 for each user. An item's id is unique, or so within its domain, as `item_identity` has it.

    Raises:
        TapestryError: a rule is broken.
    """
    before = ("user", "position", "timestamp", "split")
    connection.execute(
        f"""CREATE OR REPLACE TEMP VIEW sequences_in_order AS
        SELECT *, {", ".join(f'lag("{name}") OVER () AS previous_{name}' for name in before)} FROM sequences"""
    )
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE users_counted AS
        SELECT * FROM (SELECT *, row_number() OVER () - 1 AS expected_user FROM users) FULL JOIN (
            SELECT "user", count(*) AS interactions, min(place) AS first_place
            FROM (SELECT "user", row_number() OVER () - 1 AS place FROM sequences) GROUP BY "user"
        ) USING ("user")"""
    )
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE items_counted AS
        SELECT * FROM (
            SELECT *, row_number() OVER () - 1 AS expected_item, lag(domain) OVER () AS previous_domain FROM items
        ) FULL JOIN (
            SELECT item, count(*) FILTER (split = 0) AS trained, min(domain) AS least_domain, max(domain) AS last_domain
            FROM sequences GROUP BY item
        ) USING (item)"""
    )
    in_order = pa.DataFrameSchema(
        {
            "user": pa.Column(dt.Int32, pa.Check.ge(0)),
            "position": pa.Column(dt.Int32, pa.Check.ge(0)),
            "item": pa.Column(dt.Int32, pa.Check.ge(0)),
            "domain": pa.Column(dt.Int16, pa.Check.in_range(0, domains, include_max=False)),
            "timestamp": pa.Column(dt.Int64),
            "split": pa.Column(dt.Int8, pa.Check.isin([0, 1, 2])),
        },
        checks=[
            _compares("sorted by user", lambda t: (t.user >= t.previous_user).fill_null(True)),
            _compares("sorted by time", lambda t: _of_one_user(t, t.timestamp >= t.previous_timestamp)),
            _compares("test after training", lambda t: _of_one_user(t, t.split >= t.previous_split)),
            _compares("positions count up", lambda t: _of_one_user(t, t.position == t.previous_position + 1)),
            _compares("positions from 0", lambda t: (t.user == t.previous_user).fill_null(False) | (t.position == 0)),
        ],
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
            _compares("offsets consistent", lambda t: t.offset == t.first_place),
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
            _compares("item of its domain", lambda t: (t.domain == t.least_domain) & (t.domain == t.last_domain)),
        ],
        unique=["item_id"] if item_identity == "global" else ["domain", "item_id"],
    )
    _validate(connection, {"sequences_in_order": in_order, "users_counted": users, "items_counted": items})


def _of_one_user(table: ibis.Table, rule: Any) -> Any:
    return ((table.user != table.previous_user) | rule).fill_null(True)


def _holds(name: str, rule: Any) -> pa.Check:
    return pa.Check(lambda data: rule(data.table[data.key]), name=name)


def _compares(name: str, rule: Any) -> pa.Check:
    return pa.Check(lambda data: rule(data.table), name=name)


def _validate(connection: duckdb.DuckDBPyConnection, schemas: Mapping[str, pa.DataFrameSchema]) -> None:
    """Check tables by their schemas, all of them before raising."""
    found = []
    backend = ibis.duckdb.from_connection(connection)
    for table, schema in schemas.items():
        for part in (schema, *schema.columns.values()):
            for check in part.checks:
                check.n_failure_cases = _SHOWN_FAILURES
        try:
            schema.validate(backend.table(table), lazy=True)
        except SchemaErrors as errors:
            found.append(f"table {table} breaks its schema:")
            found += [f"  {error['check']}: {error['error']}" for kind in _groups(errors) for error in kind]
    if found:
        raise TapestryError("\n".join(found))


def _groups(errors: SchemaErrors) -> list[list[dict[str, Any]]]:
    return [rows for part in json.loads(str(errors)).values() for rows in part.values()]
