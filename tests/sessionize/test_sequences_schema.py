"""The schemas accept valid tables and report every error that is put into them.

The check of a table reports all of its broken rules, so a test makes all errors of a table at once, one per row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import duckdb
import pytest
from interactions import SETTINGS

from tapestry.core.errors import TapestryError
from tapestry.sessionize.schema import check_sequences
from tapestry.sessionize.settings import SessionizeSettings

BY_DOMAIN = replace(SETTINGS, item_identity="domain")

# 12 users of 2 training, 1 validation and 1 test interaction; items a0 and a1 of one domain, b0 of the other.
SEQUENCES = """
CREATE SCHEMA made; USE made;
CREATE TABLE items AS SELECT * FROM (VALUES
    (0::INTEGER, 'a0', 0::SMALLINT, 12::BIGINT), (1, 'a1', 0, 12), (2, 'b0', 1, 0)
) t(item, item_id, domain, train_count);
CREATE TABLE users AS
SELECT u::INTEGER AS "user", 'u' || u AS user_id, 4 * u AS "offset", 4::INTEGER AS length FROM range(12) numbers(u);
CREATE TABLE sequences AS
SELECT u::INTEGER AS "user", position, item, domain, timestamp, split FROM range(12) numbers(u), (VALUES
    (0::INTEGER, 0::INTEGER, 0::SMALLINT, 10::BIGINT, 0::TINYINT), (1, 1, 0, 20, 0), (2, 2, 1, 20, 1), (3, 2, 1, 30, 2)
) t(position, item, domain, timestamp, split) ORDER BY u, position;
"""
SEQUENCE_ERRORS: dict[str, str | tuple[str, str]] = {
    'UPDATE sequences SET timestamp = 9 WHERE "user" = 0 AND position = 1': "sorted by time",
    'UPDATE sequences SET timestamp = NULL WHERE "user" = 1 AND position = 0': "timestamp not null",
    'UPDATE sequences SET split = 0 WHERE "user" = 2 AND position = 3': "test after training",
    'UPDATE sequences SET split = 3 WHERE "user" = 3 AND position = 3': ("split one of 0, 1, 2", "'split': 3"),
    'UPDATE sequences SET domain = 1 WHERE "user" = 4 AND position = 0': "item of its domain",
    'UPDATE sequences SET domain = 2 WHERE "user" = 5 AND position = 0': ("domain from 0 to 1", "'domain': 2"),
    'UPDATE sequences SET item = 3 WHERE "user" = 6 AND position = 0': ("item one of the items", "'item': 3"),
    'UPDATE sequences SET item = -1 WHERE "user" = 7 AND position = 0': ("item at least 0", "'item': -1"),
    'UPDATE sequences SET position = 4 WHERE "user" = 8 AND position = 3': "positions count up",
    'UPDATE sequences SET position = -1 WHERE "user" = 9 AND position = 0': ("position at least 0", "'position': -1"),
    'UPDATE sequences SET position = 2 WHERE "user" = 10 AND position = 3': "positions count up",
    'UPDATE sequences SET "user" = 12 WHERE "user" = 11 AND position = 3': ("positions from 0", "'user': 12"),
}
USER_ERRORS: dict[str, str | tuple[str, str]] = {
    'UPDATE users SET length = 5 WHERE "user" = 0': "length counted",
    "UPDATE users SET user_id = 'u2' WHERE \"user\" = 1": "'('user_id',)' not unique",
    'UPDATE users SET user_id = NULL WHERE "user" = 3': "user_id not null",
    "INSERT INTO users VALUES (12, 'u12', 48, 1)": "interactions not null",
    'UPDATE users SET "user" = 20 WHERE "user" = 11; UPDATE sequences SET "user" = 20 WHERE "user" = 11': (
        "user numbers consecutive"
    ),
}
ITEM_ERRORS: dict[str, str | tuple[str, str]] = {
    "UPDATE items SET item_id = 'a0' WHERE item = 1": "'('item_id',)' not unique",
    "UPDATE items SET train_count = 11 WHERE item = 1": "training interactions counted",
    "UPDATE items SET domain = 1 WHERE item = 0; UPDATE sequences SET domain = 1 WHERE item = 0": (
        "contiguous by domain"
    ),
    "INSERT INTO items VALUES (4, 'b1', 1, 0)": "item numbers consecutive",
    "INSERT INTO items VALUES (5, 'b2', 2, 0)": ("domain from 0 to 1", "'domain': 2"),
    "INSERT INTO items VALUES (6, 'b3', 1, -1)": ("train_count at least 0", "'train_count': -1"),
    "INSERT INTO items VALUES (7, NULL, 1, 0)": "item_id not null",
    "INSERT INTO items VALUES (8, 'b4', 1, 0)": "trained not null",
}


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute(SEQUENCES)
        yield connection


def check(connection: duckdb.DuckDBPyConnection, settings: SessionizeSettings = SETTINGS) -> None:
    """Check the tables as if they had been read from files."""
    for name in ("sequences", "users", "items"):
        rows = f"SELECT *, row_number() OVER () - 1 AS file_row_number FROM made.{name}"
        connection.execute(f"CREATE OR REPLACE VIEW main.{name} AS {rows}")
    connection.execute("USE main")
    check_sequences(connection, domains=2, settings=settings)


def test_valid_tables_pass(connection: duckdb.DuckDBPyConnection) -> None:
    check(connection)


def test_two_items_with_one_item_id_pass_only_with_item_identity_domain(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    connection.execute("UPDATE made.items SET item_id = 'a0' WHERE item = 2")
    check(connection, BY_DOMAIN)
    with pytest.raises(TapestryError, match=r"'\('item_id',\)' not unique"):
        check(connection)
    connection.execute("UPDATE made.items SET item_id = 'a0' WHERE item = 1")
    with pytest.raises(TapestryError, match=r"'\('domain', 'item_id'\)' not unique"):
        check(connection, BY_DOMAIN)


@pytest.mark.parametrize("errors", [SEQUENCE_ERRORS, USER_ERRORS, ITEM_ERRORS], ids=["sequences", "users", "items"])
def test_every_invalid_row_is_reported(
    connection: duckdb.DuckDBPyConnection, errors: Mapping[str, str | tuple[str, str]]
) -> None:
    for error in errors:
        connection.execute(error)
    with pytest.raises(TapestryError, match="breaks its schema") as caught:
        check(connection)
    assert [error for error in errors.values() if not is_reported(error, str(caught.value))] == []


def is_reported(error: str | tuple[str, str], message: str) -> bool:
    """Say whether a line of the message has the words: of the rule, and of a value that breaks it."""
    words = [error] if isinstance(error, str) else error
    return any(all(word in line for word in words) for line in message.splitlines())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ('UPDATE users SET "offset" = 5 WHERE "user" = 1', "offsets consistent"),
        ('DELETE FROM sequences WHERE "user" = 1 AND position = 1', "offsets consistent"),
        ('DELETE FROM sequences WHERE "user" = 11 AND position = 3', "length counted"),
        ('DELETE FROM sequences WHERE "user" = 11', "interactions not null"),
        ("INSERT INTO sequences VALUES (12, 0, 2, 1, 30, 0)", "user_id not null"),
        ("INSERT INTO sequences VALUES (11, 4, 2, 1, 30, 2)", "length counted"),
        ("ALTER TABLE sequences ALTER item TYPE BIGINT", "expected column 'item' to have type int32"),
        ('ALTER TABLE users ALTER "offset" TYPE INTEGER', "expected column 'offset' to have type int64"),
        ("ALTER TABLE items ALTER domain TYPE INTEGER", "expected column 'domain' to have type int16"),
    ],
)
def test_an_error_that_shifts_a_whole_table_is_reported(
    connection: duckdb.DuckDBPyConnection, error: str, message: str
) -> None:
    connection.execute(error)
    with pytest.raises(TapestryError, match="breaks its schema") as caught:
        check(connection)
    assert message in str(caught.value)
