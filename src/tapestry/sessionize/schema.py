"""The schemas of the tables that sessionize writes: sequences, users and items."""

from __future__ import annotations

from typing import Any

import duckdb
import ibis
import ibis.expr.datatypes as dt

from tapestry.core.splits import TEST, TRAIN, VALIDATION
from tapestry.sessionize.settings import SessionizeSettings
from tapestry.tables.schema import Column, Rule, TableSchema, at_least, in_range, one_of, validate


def check_sequences(connection: duckdb.DuckDBPyConnection, domains: int, settings: SessionizeSettings) -> None:
    """Check the tables `sequences`, `users` and `items`: each table, the order of its rows, and that the tables agree.

    A rule can concern other rows: for example, a timestamp must not be smaller than the timestamp of the row before.
    For such a rule a view adds the other row's value as a column (`previous_timestamp`), and the rule compares two
    columns of one row.

    item_id is unique with `item_identity: global`, and unique within each domain with `item_identity: domain`. Times
    rise within a user unless the order is given. Test comes after training in a user's sequence, or in each of its
    domains if the split is by domain.

    Raises:
        TapestryError: A rule is broken. The message lists all broken rules, with examples.
    """
    previous = ("user", "position", "timestamp", "split")
    in_file = (
        f"""SELECT *, {", ".join(f'lag("{name}") OVER () AS previous_{name}' for name in previous)} FROM sequences"""
    )
    if settings.split == "leave_one_out_by_domain":  # a step of its own, since it may change the order of rows
        of_domain = 'lag(split) OVER (PARTITION BY "user", domain ORDER BY position)'
        in_file = f"SELECT * REPLACE ({of_domain} AS previous_split) FROM ({in_file})"
    connection.execute(f"CREATE OR REPLACE TEMP VIEW sequences_in_order AS {in_file}")
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE users_counted AS
        SELECT * FROM (SELECT *, row_number() OVER () - 1 AS expected_user FROM users) FULL JOIN (
            SELECT "user", count(*) AS interactions, min(row) AS first_row
            FROM (SELECT "user", row_number() OVER () - 1 AS row FROM sequences) GROUP BY "user"
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
    by_time = [Rule("sorted by time", lambda t: _within_user(t, t.timestamp >= t.previous_timestamp))]
    in_order = TableSchema(
        {
            "user": Column(dt.int32, [at_least(0)]),
            "position": Column(dt.int32, [at_least(0)]),
            "item": Column(dt.int32, [at_least(0)]),
            "domain": Column(dt.int16, [in_range(0, domains - 1)]),
            "timestamp": Column(dt.int64),
            "split": Column(dt.int8, [one_of([TRAIN, VALIDATION, TEST])]),
        },
        rules=[
            Rule("sorted by user", lambda t: (t.user >= t.previous_user).fill_null(True)),
            Rule("test after training", lambda t: _within_user(t, t.split >= t.previous_split)),
            Rule("positions count up", lambda t: _within_user(t, t.position == t.previous_position + 1)),
            Rule("positions from 0", lambda t: (t.user == t.previous_user).fill_null(False) | (t.position == 0)),
            *(by_time if settings.order == "time" else []),
        ],
    )
    users = TableSchema(
        {
            "user": Column(dt.int32, [at_least(0)]),
            "user_id": Column(dt.string),
            "offset": Column(dt.int64, [at_least(0)]),
            "length": Column(dt.int32, [at_least(1)]),
            "interactions": Column(dt.int64),
        },
        rules=[
            Rule("user numbers consecutive", lambda t: t.user == t.expected_user),
            Rule("length counted", lambda t: t.length == t.interactions),
            Rule("offsets consistent", lambda t: t.offset == t.first_row),
        ],
        unique=["user_id"],
    )
    items = TableSchema(
        {
            "item": Column(dt.int32, [at_least(0)]),
            "item_id": Column(dt.string),
            "domain": Column(dt.int16, [in_range(0, domains - 1)]),
            "train_count": Column(dt.int64, [at_least(0)]),
            "trained": Column(dt.int64),
        },
        rules=[
            Rule("item numbers consecutive", lambda t: t.item == t.expected_item),
            Rule("contiguous by domain", lambda t: (t.domain >= t.previous_domain).fill_null(True)),
            Rule("training interactions counted", lambda t: t.train_count == t.trained),
            Rule("item of its domain", lambda t: (t.domain == t.least_domain) & (t.domain == t.last_domain)),
        ],
        unique=["item_id"] if settings.item_identity == "global" else ["domain", "item_id"],
    )
    validate(connection, {"sequences_in_order": in_order, "users_counted": users, "items_counted": items})


def _within_user(table: ibis.Table, rule: Any) -> Any:
    """Apply a rule about the previous row only where that row is of the same user."""
    return ((table.user != table.previous_user) | rule).fill_null(True)
