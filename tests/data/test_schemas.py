"""Each rule catches a row that breaks it: tables that pass, then one piece of damage at a time."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from tapestry.config import Parameters
from tapestry.data.schemas import check_interactions, check_sequences
from tapestry.errors import TapestryError

INTERACTIONS = """
CREATE TABLE interactions AS SELECT * FROM (VALUES
    ('A1', 'B1', 1378252800000::BIGINT, 5.0::FLOAT, 'Books', 1::BIGINT),
    ('A1', 'B2', 1378252800000, NULL, 'Books', 2),
    ('A1', 'B1', 1378339200000, 1.0, 'Books', 4),
    ('A2', 'B1', 1378252800000, 2.5, 'Books', 3)
) t(user_id, item_id, timestamp, rating, domain, row);
"""
SEQUENCES = """
CREATE TABLE items AS SELECT * FROM (VALUES
    (0::INTEGER, 'a0', 0::SMALLINT, 2::BIGINT), (1, 'a1', 0, 1), (2, 'b0', 1, 2)
) t(item, item_id, domain, train_count);
CREATE TABLE users AS SELECT * FROM (VALUES
    (0::INTEGER, 'u0', 0::BIGINT, 3::INTEGER), (1, 'u1', 3, 5)
) t("user", user_id, "offset", length);
CREATE TABLE sequences AS SELECT * FROM (VALUES
    (0::INTEGER, 0::INTEGER, 0::INTEGER, 0::SMALLINT, 10::BIGINT, 0::TINYINT),
    (0, 1, 2, 1, 10, 1),
    (0, 2, 1, 0, 20, 2),
    (1, 0, 2, 1, 5, 0),
    (1, 1, 1, 0, 6, 0),
    (1, 2, 0, 0, 7, 0),
    (1, 3, 2, 1, 7, 0),
    (1, 4, 2, 1, 8, 2)
) t("user", position, item, domain, timestamp, split);
"""


@pytest.fixture
def interactions() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute(INTERACTIONS)
        yield connection


@pytest.fixture
def sequences() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute(SEQUENCES)
        yield connection


def test_sound_interactions_pass(interactions: duckdb.DuckDBPyConnection, parameters: Parameters) -> None:
    check_interactions(interactions, "Books", parameters.ingest)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("UPDATE interactions SET user_id = NULL WHERE row = 1", "non-nullable column 'user_id' contains null"),
        ("UPDATE interactions SET item_id = NULL WHERE row = 1", "non-nullable column 'item_id' contains null"),
        ("UPDATE interactions SET timestamp = NULL WHERE row = 1", "non-nullable column 'timestamp' contains null"),
        ("UPDATE interactions SET domain = NULL WHERE row = 1", "non-nullable column 'domain' contains null"),
        ("UPDATE interactions SET row = NULL WHERE row = 1", "non-nullable column 'row' contains null"),
        ("UPDATE interactions SET user_id = ' ' WHERE row = 3", "not blank: Column 'user_id'"),
        ("UPDATE interactions SET item_id = '' WHERE row = 1", "not blank: Column 'item_id'"),
        ("UPDATE interactions SET domain = 'Toys' WHERE row = 1", "failure cases: {'domain': 'Toys'}"),
        ("UPDATE interactions SET timestamp = 788918399999 WHERE row = 1", "Column 'timestamp' failed"),
        ("UPDATE interactions SET timestamp = 1893456000000 WHERE row = 1", "Column 'timestamp' failed"),
        ("UPDATE interactions SET rating = 5.5 WHERE row = 1", "failure cases: {'rating': 5.5}"),
        ("UPDATE interactions SET rating = 0 WHERE row = 1", "failure cases: {'rating': 0.0}"),
        ("UPDATE interactions SET rating = 'nan' WHERE row = 1", "failure cases: {'rating': nan}"),
        ("UPDATE interactions SET row = 0 WHERE row = 1", "failure cases: {'row': 0}"),
        ("INSERT INTO interactions SELECT * FROM interactions WHERE row = 3", "not unique"),
        ("UPDATE interactions SET timestamp = 1378252800000 WHERE row = 4", "not unique"),
        ("ALTER TABLE interactions ALTER rating TYPE DOUBLE", "expected column 'rating' to have type float32"),
        ("ALTER TABLE interactions ALTER row TYPE INTEGER", "expected column 'row' to have type int64"),
        ("ALTER TABLE interactions ALTER item_id TYPE BLOB", "expected column 'item_id' to have type string"),
        ("ALTER TABLE interactions DROP rating", "column 'rating' not found"),
        ("ALTER TABLE interactions ADD review VARCHAR", "column 'review' not in"),
    ],
)
def test_interactions_with_one_bad_row_are_refused(
    interactions: duckdb.DuckDBPyConnection, parameters: Parameters, damage: str, complaint: str
) -> None:
    interactions.execute(damage)
    with pytest.raises(TapestryError, match="table interactions breaks its schema") as caught:
        check_interactions(interactions, "Books", parameters.ingest)
    assert complaint in str(caught.value)


def test_sound_sequences_pass(sequences: duckdb.DuckDBPyConnection) -> None:
    check_sequences(sequences, domains=2)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ('UPDATE sequences SET timestamp = 4 WHERE "user" = 1 AND position = 1', "sorted by time"),
        ('UPDATE sequences SET timestamp = NULL WHERE "user" = 0 AND position = 0', "column 'timestamp' contains null"),
        ('UPDATE sequences SET split = 0 WHERE "user" = 0 AND position = 2', "test after training"),
        ('UPDATE sequences SET split = 1 WHERE "user" = 1 AND position = 1', "test after training"),
        ('UPDATE sequences SET split = 3 WHERE "user" = 1 AND position = 4', "failure cases: {'split': 3}"),
        ('UPDATE sequences SET domain = 1 WHERE "user" = 0 AND position = 0', "item of its domain"),
        ('UPDATE sequences SET item = 0 WHERE "user" = 0 AND position = 1', "item of its domain"),
        ('UPDATE sequences SET domain = 2 WHERE "user" = 0 AND position = 0', "failure cases: {'domain': 2}"),
        ('UPDATE sequences SET item = 3 WHERE "user" = 0 AND position = 0', "column 'item_domain' contains null"),
        ('UPDATE sequences SET item = -1 WHERE "user" = 0 AND position = 0', "failure cases: {'item': -1}"),
        ('UPDATE sequences SET position = 5 WHERE "user" = 1 AND position = 4', "position within length"),
        ('UPDATE sequences SET position = -1 WHERE "user" = 0 AND position = 0', "failure cases: {'position': -1}"),
        ('UPDATE sequences SET position = 2 WHERE "user" = 1 AND position = 3', "'('user', 'position')' not unique"),
        ('DELETE FROM sequences WHERE "user" = 1 AND position = 2', "offsets consistent"),
        ('UPDATE sequences SET "user" = 2 WHERE "user" = 1 AND position = 4', "column 'length' contains null"),
        ("ALTER TABLE sequences ALTER item TYPE BIGINT", "expected column 'item' to have type int32"),
        ("ALTER TABLE sequences ALTER split TYPE INTEGER", "expected column 'split' to have type int8"),
        ('UPDATE users SET "offset" = 4 WHERE "user" = 1', "offsets consistent"),
        ('UPDATE users SET "offset" = 1 WHERE "user" = 0', "offsets consistent"),
        ('UPDATE users SET length = 4 WHERE "user" = 0', "length counted"),
        ('DELETE FROM sequences WHERE "user" = 1 AND position = 4', "length counted"),
        ("INSERT INTO users VALUES (2, 'u2', 8, 1)", "column 'interactions' contains null"),
        (
            'UPDATE users SET "user" = 2 WHERE "user" = 1; UPDATE sequences SET "user" = 2 WHERE "user" = 1',
            "contiguous",
        ),
        ("UPDATE users SET user_id = 'u0'", "'('user_id',)' not unique"),
        ("UPDATE users SET user_id = NULL WHERE length = 3", "column 'user_id' contains null"),
        ('ALTER TABLE users ALTER "offset" TYPE INTEGER', "expected column 'offset' to have type int64"),
        ("UPDATE items SET item_id = 'a0' WHERE item = 1", "'('item_id',)' not unique"),
        ("UPDATE items SET item = 3 WHERE item = 2; UPDATE sequences SET item = 3 WHERE item = 2", "ids contiguous"),
        (
            "UPDATE items SET domain = 1 - domain WHERE item > 0;"
            "UPDATE sequences SET domain = 1 - domain WHERE item > 0",
            "contiguous by domain",
        ),
        ("UPDATE items SET train_count = 1 WHERE item = 0", "training interactions counted"),
        ("INSERT INTO items VALUES (3, 'b1', 1, 0)", "column 'trained' contains null"),
    ],
)
def test_sequences_with_one_flaw_are_refused(sequences: duckdb.DuckDBPyConnection, damage: str, complaint: str) -> None:
    sequences.execute(damage)
    with pytest.raises(TapestryError, match="breaks its schema") as caught:
        check_sequences(sequences, domains=2)
    assert complaint in str(caught.value)


def test_a_failure_shows_some_of_many_bad_values(
    interactions: duckdb.DuckDBPyConnection, parameters: Parameters
) -> None:
    interactions.execute(
        """INSERT INTO interactions
        SELECT 'A9', 'B' || i, 1378252800000, 9, 'Toys', i FROM range(10, 1010) numbers(i)"""
    )
    with pytest.raises(TapestryError) as caught:
        check_interactions(interactions, "Books", parameters.ingest)
    assert str(caught.value).count("'Toys'") == 5
    assert str(caught.value).count("9.0") == 5
