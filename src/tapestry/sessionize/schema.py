"""The schemas of the tables that sessionize writes: sequences, users and items."""

from __future__ import annotations

import duckdb

from tapestry.core.splits import TEST, TRAIN, VALIDATION
from tapestry.sessionize.settings import SessionizeSettings
from tapestry.tables.schema import Column, Rule, TableSchema, at_least, in_range, one_of, validate


def check_sequences(connection: duckdb.DuckDBPyConnection, domains: int, settings: SessionizeSettings) -> None:
    """Check the views `sequences`, `users` and `items` of the written files: each, and that they agree.

    The views have the column `file_row_number`, from 0. A rule can concern other rows: for example, a timestamp must
    not be smaller than the timestamp of the row before. For such a rule a view adds the other row's value as a column
    (`previous_timestamp`), and the rule compares two columns of one row.

    item_id is unique with `item_identity: global`, and unique within each domain with `item_identity: domain`. Times
    rise within a user unless the order is given. Test comes after training in a user's sequence, or in each of its
    domains if the split is by domain.

    Raises:
        TapestryError: A rule is broken. The message lists all broken rules, with examples.
    """
    tables = {
        "interactions": _interactions(connection, domains, settings),
        "interactions_and_items": _interactions_and_items(connection),
        "users_and_first_rows": _users(connection),
        "items_counted": _items(connection, domains, settings),
    }
    validate(connection, tables)


def _interactions(connection: duckdb.DuckDBPyConnection, domains: int, settings: SessionizeSettings) -> TableSchema:
    """Create the view `interactions`: each with its user's one before it; return its schema."""
    previous = ("user", "position", "timestamp", "split")
    in_file = f"""SELECT *, {", ".join(f'lag("{name}") OVER () AS previous_{name}' for name in previous)},
        (SELECT max(item) FROM items) AS last_item FROM sequences"""
    if settings.split == "leave_one_out_by_domain":  # a step of its own, since it may change the order of rows
        of_domain = 'lag(split) OVER (PARTITION BY "user", domain ORDER BY position)'
        in_file = f"SELECT * REPLACE ({of_domain} AS previous_split) FROM ({in_file})"
    connection.execute(f"CREATE OR REPLACE TEMP VIEW interactions AS {in_file}")
    by_time = [Rule("sorted by time", _within_user("timestamp >= previous_timestamp"))]
    return TableSchema(
        {
            "user": Column("INTEGER", [at_least(0)]),
            "position": Column("INTEGER", [at_least(0)]),
            "item": Column("INTEGER", [at_least(0), Rule("one of the items", "item <= last_item")]),
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


def _interactions_and_items(connection: duckdb.DuckDBPyConnection) -> TableSchema:
    """Create the view `interactions_and_items`, of interactions whose item is known; return its schema."""
    connection.execute(  # an inner join: of dense integers it takes a quarter of the time of a left one
        """CREATE OR REPLACE TEMP VIEW interactions_and_items AS
        SELECT s.*, i.domain AS domain_of_item FROM sequences s JOIN items i USING (item)"""
    )
    return TableSchema({}, rules=[Rule("item of its domain", "domain = domain_of_item")])


def _users(connection: duckdb.DuckDBPyConnection) -> TableSchema:
    """Create the table `users_and_first_rows`; return its schema.

    A user's first row in `sequences` is the one with position 0; its other rows follow, by the rules there. So a user
    has `length` interactions if the next user's first row, or the end of the file, is so many rows later.
    """
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE users_and_first_rows AS
        SELECT *, coalesce(first_row_of_next, (SELECT count(*) FROM sequences)) - first_row AS interactions
        FROM users FULL JOIN (
            SELECT "user", file_row_number AS first_row, lead(file_row_number) OVER () AS first_row_of_next
            FROM sequences WHERE position = 0
        ) USING ("user")"""
    )
    return TableSchema(
        {
            "user": Column("INTEGER", [at_least(0)]),
            "user_id": Column("VARCHAR"),
            "offset": Column("BIGINT", [at_least(0)]),
            "length": Column("INTEGER", [at_least(1)]),
            "interactions": Column("BIGINT"),
        },
        rules=[
            Rule("user numbers consecutive", '"user" = file_row_number'),
            Rule("length counted", "length = interactions"),
            Rule("offsets consistent", '"offset" = first_row'),
        ],
        unique=["user_id"],
    )


def _items(connection: duckdb.DuckDBPyConnection, domains: int, settings: SessionizeSettings) -> TableSchema:
    """Create the table `items_counted`, with the training interactions of each item; return its schema."""
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE items_counted AS
        SELECT * FROM (SELECT *, lag(domain) OVER () AS previous_domain FROM items) LEFT JOIN (
            SELECT item, count(*) FILTER (split = {TRAIN}) AS trained FROM sequences GROUP BY item
        ) USING (item)"""
    )
    return TableSchema(
        {
            "item": Column("INTEGER", [at_least(0)]),
            "item_id": Column("VARCHAR"),
            "domain": Column("SMALLINT", [in_range(0, domains - 1)]),
            "train_count": Column("BIGINT", [at_least(0)]),
            "trained": Column("BIGINT"),
        },
        rules=[
            Rule("item numbers consecutive", "item = file_row_number"),
            Rule("contiguous by domain", "domain >= previous_domain"),
            Rule("training interactions counted", "train_count = trained"),
        ],
        unique=["item_id"] if settings.item_identity == "global" else ["domain", "item_id"],
    )


def _within_user(condition: str) -> str:
    """Make a condition about the previous row hold only where that row is of the same user."""
    return f'"user" <> previous_user OR {condition}'
