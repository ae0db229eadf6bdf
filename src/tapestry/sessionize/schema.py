"""What sequences, users and items must be, as Pandera schemas."""

from __future__ import annotations

from typing import Any, Literal

import duckdb
import ibis
import ibis.expr.datatypes as dt
import pandera.ibis as pa

from tapestry.core.splits import TEST, TRAIN, VALIDATION
from tapestry.tables.schema import compares, validate


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
        f"""CREATE OR REPLACE TEMP TABLE items_counted AS
        SELECT * FROM (
            SELECT *, row_number() OVER () - 1 AS expected_item, lag(domain) OVER () AS previous_domain FROM items
        ) FULL JOIN (
            SELECT item, count(*) FILTER (split = {TRAIN}) AS trained,
                min(domain) AS least_domain, max(domain) AS last_domain
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
            "split": pa.Column(dt.Int8, pa.Check.isin([TRAIN, VALIDATION, TEST])),
        },
        checks=[
            compares("sorted by user", lambda t: (t.user >= t.previous_user).fill_null(True)),
            compares("sorted by time", lambda t: _of_one_user(t, t.timestamp >= t.previous_timestamp)),
            compares("test after training", lambda t: _of_one_user(t, t.split >= t.previous_split)),
            compares("positions count up", lambda t: _of_one_user(t, t.position == t.previous_position + 1)),
            compares("positions from 0", lambda t: (t.user == t.previous_user).fill_null(False) | (t.position == 0)),
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
            compares("user ids contiguous", lambda t: t.user == t.expected_user),
            compares("length counted", lambda t: t.length == t.interactions),
            compares("offsets consistent", lambda t: t.offset == t.first_place),
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
            compares("item ids contiguous", lambda t: t.item == t.expected_item),
            compares("contiguous by domain", lambda t: (t.domain >= t.previous_domain).fill_null(True)),
            compares("training interactions counted", lambda t: t.train_count == t.trained),
            compares("item of its domain", lambda t: (t.domain == t.least_domain) & (t.domain == t.last_domain)),
        ],
        unique=["item_id"] if item_identity == "global" else ["domain", "item_id"],
    )
    validate(connection, {"sequences_in_order": in_order, "users_counted": users, "items_counted": items})


def _of_one_user(table: ibis.Table, rule: Any) -> Any:
    return ((table.user != table.previous_user) | rule).fill_null(True)
