"""The schema of interactions: a valid table passes, and every flaw put into it is found and named.

A check reports every broken rule of a table, so one table has all flaws, one in each row.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from tapestry.core.errors import TapestryError
from tapestry.ingest.schema import check_interactions
from tapestry.ingest.settings import IngestSettings
from tapestry.parameters import Parameters

INTERACTIONS = """
CREATE TABLE interactions AS
SELECT 'A' || (10 + i // 2) AS user_id, 'B' || (10 + i) AS item_id, 1378252800000::BIGINT AS timestamp,
    CASE WHEN i > 1 THEN 5.0 END::FLOAT AS rating, 'Books' AS domain, i AS row
FROM range(1, 21) numbers(i)
"""
INTERACTION_FLAWS: dict[str, str | tuple[str, str]] = {
    "UPDATE interactions SET user_id = NULL WHERE row = 2": "user_id not null",
    "UPDATE interactions SET item_id = NULL WHERE row = 3": "item_id not null",
    "UPDATE interactions SET timestamp = NULL WHERE row = 4": "timestamp not null",
    "UPDATE interactions SET domain = NULL WHERE row = 5": "domain not null",
    "UPDATE interactions SET user_id = ' ' WHERE row = 6": ("user_id not blank", "'user_id': ' '"),
    "UPDATE interactions SET item_id = '' WHERE row = 7": ("item_id not blank", "'item_id': ''"),
    "UPDATE interactions SET domain = 'Toys' WHERE row = 8": ("domain one of Books", "'domain': 'Toys'"),
    "UPDATE interactions SET timestamp = 788918399999 WHERE row = 9": ("timestamp from", "'timestamp': 788918399999"),
    "UPDATE interactions SET timestamp = 1893456000000 WHERE row = 10": (
        "timestamp from",
        "'timestamp': 1893456000000",
    ),
    "UPDATE interactions SET rating = 5.5 WHERE row = 11": ("rating from", "'rating': 5.5"),
    "UPDATE interactions SET rating = 0 WHERE row = 12": ("rating from", "'rating': 0.0"),
    "UPDATE interactions SET rating = 'nan' WHERE row = 13": ("rating from", "'rating': nan"),
    "UPDATE interactions SET row = 0 WHERE row = 14": ("row at least 1", "'row': 0"),
    "INSERT INTO interactions SELECT * FROM interactions WHERE row = 15": "each after the one before",
}


@pytest.fixture(scope="session")
def settings(parameters: Parameters) -> IngestSettings:
    return parameters.ingest


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute(INTERACTIONS)
        yield connection


def check_written(connection: duckdb.DuckDBPyConnection, settings: IngestSettings) -> None:
    with tempfile.TemporaryDirectory() as folder:
        connection.execute(f"COPY (FROM interactions ORDER BY row) TO '{folder}/i.parquet' (FORMAT parquet)")
        check_interactions(connection, Path(folder, "i.parquet"), "Books", settings)


def test_valid_interactions_pass(connection: duckdb.DuckDBPyConnection, settings: IngestSettings) -> None:
    check_written(connection, settings)


@pytest.mark.parametrize(
    "flaw",
    [
        "SET user_id = 'A09' WHERE row = 3",
        "SET timestamp = timestamp - 1 WHERE row = 3",
        "SET item_id = 'B11' WHERE row = 3",
        "SET item_id = 'B12' WHERE row = 3",
    ],
)
def test_unsorted_interactions_are_found(
    connection: duckdb.DuckDBPyConnection, settings: IngestSettings, flaw: str
) -> None:
    connection.execute(f"UPDATE interactions {flaw}")
    with pytest.raises(TapestryError, match="each after the one before"):
        check_written(connection, settings)


def test_every_flaw_of_interactions_is_found(connection: duckdb.DuckDBPyConnection, settings: IngestSettings) -> None:
    for flaw in INTERACTION_FLAWS:
        connection.execute(flaw)
    with pytest.raises(TapestryError, match="table interactions breaks its schema") as caught:
        check_written(connection, settings)
    assert [words for words in INTERACTION_FLAWS.values() if not is_found(words, str(caught.value))] == []


def is_found(words: str | tuple[str, str], message: str) -> bool:
    """Say whether a line of the message has the words: of the rule, and of a value that breaks it."""
    all_words = [words] if isinstance(words, str) else words
    return any(all(word in line for word in all_words) for line in message.splitlines())


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
    connection: duckdb.DuckDBPyConnection, settings: IngestSettings, flaw: str, complaint: str
) -> None:
    connection.execute(flaw)
    with pytest.raises(TapestryError, match="breaks its schema") as caught:
        check_written(connection, settings)
    assert complaint in str(caught.value)


def test_some_of_many_bad_values_are_shown(connection: duckdb.DuckDBPyConnection, settings: IngestSettings) -> None:
    connection.execute(
        """INSERT INTO interactions
        SELECT 'C' || (1000 + i), 'B' || i, 1378252800000, 9, 'Toys', i FROM range(100, 1100) numbers(i)"""
    )
    with pytest.raises(TapestryError) as caught:
        check_written(connection, settings)
    _heading, *rules = str(caught.value).splitlines()
    assert [rule.strip().partition(":")[0] for rule in rules] == ["rating from 1.0 to 5.0", "domain one of Books"]
    assert [rule.count("'domain': 'Toys'") for rule in rules] == [5, 5]
