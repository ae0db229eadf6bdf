"""The schemas of the tables that sessionize writes: sequences, users and items."""

from __future__ import annotations

import duckdb

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
    by_time = [Rule("sorted by time", _within_user("timestamp >= previous_timestamp"))]
    in_order = TableSchema(
        {
            "user": Column("INTEGER", [at_least(0)]),
            "position": Column("INTEGER", [at_least(0)]),
            "item": Column("INTEGER", [at_least(0)]),
            "domain": Column("SMALLINT", [in_range(0, domains - 1)]),
            "timestamp": Column("BIGINT"),
            "split": Column("TINYINT", [one_of([TRAIN, VALIDATION, TEST])]),
        },
        rules=[
            Rule("sorted by user", '"user" >= previous_user'),
            Rule("test after training", _within_user("split >= previous_split")),
            Rule("positions count up", _within_user("position = previous_position + 1")),
            Rule("positions from 0", 'coalesce("user" = previous_user, false) OR position = 0'),
            *(by_time if settings.order == "time" else []),
        ],
    )
    users = TableSchema(
        {
            "user": Column("INTEGER", [at_least(0)]),
            "user_id": Column("VARCHAR"),
            "offset": Column("BIGINT", [at_least(0)]),
            "length": Column("INTEGER", [at_least(1)]),
            "interactions": Column("BIGINT"),
        },
        rules=[
            Rule("user numbers consecutive", '"user" = expected_user'),
            Rule("length counted", "length = interactions"),
            Rule("offsets consistent", '"offset" = first_row'),
        ],
        unique=["user_id"],
    )
    items = TableSchema(
        {
            "item": Column("INTEGER", [at_least(0)]),
            "item_id": Column("VARCHAR"),
            "domain": Column("SMALLINT", [in_range(0, domains - 1)]),
            "train_count": Column("BIGINT", [at_least(0)]),
            "trained": Column("BIGINT"),
        },
        rules=[
            Rule("item numbers consecutive", "item = expected_item"),
            Rule("contiguous by domain", "domain >= previous_domain"),
            Rule("training interactions counted", "train_count = trained"),
            Rule("item of its domain", "domain = least_domain AND domain = last_domain"),
        ],
        unique=["item_id"] if settings.item_identity == "global" else ["domain", "item_id"],
    )
    validate(connection, {"sequences_in_order": in_order, "users_counted": users, "items_counted": items})


def _within_user(condition: str) -> str:
    """Make a condition about the previous row hold only where that row is of the same user."""
    return f'"user" <> previous_user OR {condition}'
