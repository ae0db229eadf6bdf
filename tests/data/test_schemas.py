"""Each rule names the row that breaks it: sound tables pass, and flaws planted in them are all found.

A check reports every broken rule of a table, so the flaws of one table are planted together, a row each.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import duckdb
import pytest

from tapestry.config import IngestConfig, Parameters
from tapestry.data.schemas import check_interactions, check_sequences
from tapestry.errors import TapestryError

INTERACTIONS = """
CREATE TABLE interactions AS
SELECT 'A' || (10 + i // 2) AS user_id, 'B' || (10 + i) AS item_id, 1378252800000::BIGINT AS timestamp,
    CASE WHEN i > 1 THEN 5.0 END::FLOAT AS rating, 'Books' AS domain, i AS row
FROM range(1, 21) numbers(i)
"""
# 12 users of 2 training, 1 validation and 1 test interaction; items a0 and a1 of one domain, b0 of the other.
SEQUENCES = """
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
INTERACTION_FLAWS = {
    "UPDATE interactions SET user_id = NULL WHERE row = 2": "non-nullable column 'user_id' contains null",
    "UPDATE interactions SET item_id = NULL WHERE row = 3": "non-nullable column 'item_id' contains null",
    "UPDATE interactions SET timestamp = NULL WHERE row = 4": "non-nullable column 'timestamp' contains null",
    "UPDATE interactions SET domain = NULL WHERE row = 5": "non-nullable column 'domain' contains null",
    "UPDATE interactions SET user_id = ' ' WHERE row = 6": "failure cases: {'user_id': ' '}",
    "UPDATE interactions SET item_id = '' WHERE row = 7": "failure cases: {'item_id': ''}",
    "UPDATE interactions SET domain = 'Toys' WHERE row = 8": "failure cases: {'domain': 'Toys'}",
    "UPDATE interactions SET timestamp = 788918399999 WHERE row = 9": "{'timestamp': 788918399999}",
    "UPDATE interactions SET timestamp = 1893456000000 WHERE row = 10": "{'timestamp': 1893456000000}",
    "UPDATE interactions SET rating = 5.5 WHERE row = 11": "{'rating': 5.5}",
    "UPDATE interactions SET rating = 0 WHERE row = 12": "{'rating': 0.0}",
    "UPDATE interactions SET rating = 'nan' WHERE row = 13": "{'rating': nan}",
    "UPDATE interactions SET row = 0 WHERE row = 14": "failure cases: {'row': 0}",
    "INSERT INTO interactions SELECT * FROM interactions WHERE row = 15": "each after the one before",
}
SEQUENCE_FLAWS = {
    'UPDATE sequences SET timestamp = 9 WHERE "user" = 0 AND position = 1': "sorted by time",
    'UPDATE sequences SET timestamp = NULL WHERE "user" = 1 AND position = 0': "column 'timestamp' contains null",
    'UPDATE sequences SET split = 0 WHERE "user" = 2 AND position = 3': "test after training",
    'UPDATE sequences SET split = 3 WHERE "user" = 3 AND position = 3': "failure cases: {'split': 3}",
    'UPDATE sequences SET domain = 1 WHERE "user" = 4 AND position = 0': "item of its domain",
    'UPDATE sequences SET domain = 2 WHERE "user" = 5 AND position = 0': "failure cases: {'domain': 2}",
    'UPDATE sequences SET item = 3 WHERE "user" = 6 AND position = 0': "column 'item_id' contains null",
    'UPDATE sequences SET item = -1 WHERE "user" = 7 AND position = 0': "failure cases: {'item': -1}",
    'UPDATE sequences SET position = 4 WHERE "user" = 8 AND position = 3': "positions count up",
    'UPDATE sequences SET position = -1 WHERE "user" = 9 AND position = 0': "failure cases: {'position': -1}",
    'UPDATE sequences SET position = 2 WHERE "user" = 10 AND position = 3': "positions count up",
    'UPDATE sequences SET "user" = 12 WHERE "user" = 11 AND position = 3': "column 'length' contains null",
}
USER_FLAWS = {
    'UPDATE users SET length = 5 WHERE "user" = 0': "length counted",
    "UPDATE users SET user_id = 'u2' WHERE \"user\" = 1": "'('user_id',)' not unique",
    'UPDATE users SET user_id = NULL WHERE "user" = 3': "column 'user_id' contains null",
    "INSERT INTO users VALUES (12, 'u12', 48, 1)": "column 'interactions' contains null",
    'UPDATE users SET "user" = 20 WHERE "user" = 11; UPDATE sequences SET "user" = 20 WHERE "user" = 11': (
        "user ids contiguous"
    ),
}
ITEM_FLAWS = {
    "UPDATE items SET item_id = 'a0' WHERE item = 1": "'('item_id',)' not unique",
    "UPDATE items SET train_count = 11 WHERE item = 1": "training interactions counted",
    "UPDATE items SET domain = 1 WHERE item = 0; UPDATE sequences SET domain = 1 WHERE item = 0": (
        "contiguous by domain"
    ),
    "INSERT INTO items VALUES (4, 'b1', 1, 0)": "item ids contiguous",
    "INSERT INTO items VALUES (5, 'b2', 2, 0)": "failure cases: {'domain': 2}",
    "INSERT INTO items VALUES (6, 'b3', 1, -1)": "failure cases: {'train_count': -1}",
    "INSERT INTO items VALUES (7, NULL, 1, 0)": "column 'item_id' contains null",
    "INSERT INTO items VALUES (8, 'b4', 1, 0)": "column 'trained' contains null",
}


@pytest.fixture(scope="session")
def config(parameters: Parameters) -> IngestConfig:
    return parameters.ingest


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute(INTERACTIONS)
        connection.execute(SEQUENCES)
        yield connection


def check_written(connection: duckdb.DuckDBPyConnection, config: IngestConfig) -> None:
    with tempfile.TemporaryDirectory() as folder:
        connection.execute(f"COPY (FROM interactions ORDER BY row) TO '{folder}/i.parquet' (FORMAT parquet)")
        check_interactions(connection, Path(folder, "i.parquet"), "Books", config)


@pytest.mark.parametrize(
    "flaw",
    [
        "SET user_id = 'A09' WHERE row = 3",
        "SET timestamp = timestamp - 1 WHERE row = 3",
        "SET item_id = 'B11' WHERE row = 3",
        "SET item_id = 'B12' WHERE row = 3",
    ],
)
def test_interactions_not_in_order_are_found(
    connection: duckdb.DuckDBPyConnection, config: IngestConfig, flaw: str
) -> None:
    connection.execute(f"UPDATE interactions {flaw}")
    with pytest.raises(TapestryError, match="each after the one before"):
        check_written(connection, config)


def test_sound_interactions_pass(connection: duckdb.DuckDBPyConnection, config: IngestConfig) -> None:
    check_written(connection, config)


def test_sound_sequences_pass(connection: duckdb.DuckDBPyConnection) -> None:
    check_sequences(connection, domains=2, item_identity="global")


def test_two_items_of_one_id_pass_only_where_their_domains_tell_them_apart(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    connection.execute("UPDATE items SET item_id = 'a0' WHERE item = 2")
    check_sequences(connection, domains=2, item_identity="domain")
    with pytest.raises(TapestryError, match=r"'\('item_id',\)' not unique"):
        check_sequences(connection, domains=2, item_identity="global")
    connection.execute("UPDATE items SET item_id = 'a0' WHERE item = 1")
    with pytest.raises(TapestryError, match=r"'\('domain', 'item_id'\)' not unique"):
        check_sequences(connection, domains=2, item_identity="domain")


def test_every_flaw_of_interactions_is_found(connection: duckdb.DuckDBPyConnection, config: IngestConfig) -> None:
    for flaw in INTERACTION_FLAWS:
        connection.execute(flaw)
    with pytest.raises(TapestryError, match="table interactions breaks its schema") as caught:
        check_written(connection, config)
    assert [complaint for complaint in INTERACTION_FLAWS.values() if complaint not in str(caught.value)] == []


@pytest.mark.parametrize("flaws", [SEQUENCE_FLAWS, USER_FLAWS, ITEM_FLAWS], ids=["sequences", "users", "items"])
def test_every_flaw_of_sequences_users_and_items_is_found(
    connection: duckdb.DuckDBPyConnection, flaws: Mapping[str, str]
) -> None:
    for flaw in flaws:
        connection.execute(flaw)
    with pytest.raises(TapestryError, match="breaks its schema") as caught:
        check_sequences(connection, domains=2, item_identity="global")
    assert [complaint for complaint in flaws.values() if complaint not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("flaw", "complaint"),
    [
        ('UPDATE users SET "offset" = 5 WHERE "user" = 1', "offsets consistent"),
        ('DELETE FROM sequences WHERE "user" = 1 AND position = 1', "offsets consistent"),
        ('DELETE FROM sequences WHERE "user" = 11 AND position = 3', "length counted"),
        ("ALTER TABLE sequences ALTER item TYPE BIGINT", "expected column 'item' to have type int32"),
        ('ALTER TABLE users ALTER "offset" TYPE INTEGER', "expected column 'offset' to have type int64"),
        ("ALTER TABLE items ALTER domain TYPE INTEGER", "expected column 'domain' to have type int16"),
    ],
)
def test_a_flaw_of_a_whole_table_of_sequences_is_found(
    connection: duckdb.DuckDBPyConnection, flaw: str, complaint: str
) -> None:
    connection.execute(flaw)
    with pytest.raises(TapestryError, match="breaks its schema") as caught:
        check_sequences(connection, domains=2, item_identity="global")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("flaw", "complaint"),
    [
        ("ALTER TABLE interactions ALTER rating TYPE DOUBLE", "expected column 'rating' to have type float32"),
        ("ALTER TABLE interactions ALTER item_id TYPE BLOB", "expected column 'item_id' to have type string"),
        ("ALTER TABLE interactions DROP rating", "column 'rating' not found"),
        ("ALTER TABLE interactions ADD review VARCHAR", "column 'review' not in"),
    ],
)
def test_a_flaw_of_the_whole_table_of_interactions_is_found(
    connection: duckdb.DuckDBPyConnection, config: IngestConfig, flaw: str, complaint: str
) -> None:
    connection.execute(flaw)
    with pytest.raises(TapestryError, match="breaks its schema") as caught:
        check_written(connection, config)
    assert complaint in str(caught.value)


def test_of_many_bad_values_some_are_shown(connection: duckdb.DuckDBPyConnection, config: IngestConfig) -> None:
    connection.execute(
        """INSERT INTO interactions
        SELECT 'C' || (1000 + i), 'B' || i, 1378252800000, 9, 'Toys', i FROM range(100, 1100) numbers(i)"""
    )
    with pytest.raises(TapestryError) as caught:
        check_written(connection, config)
    assert str(caught.value).count("'Toys'") == 5
    assert str(caught.value).count("9.0") == 5
