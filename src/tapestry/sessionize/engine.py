"""What the rules need of an engine, and the one that is always there: DuckDB, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import duckdb

from tapestry.tables.database import quote


class Engine(Protocol):
    """Runs SQL that DuckDB and Spark both understand. Names it is given are replaced if they are there already."""

    number: str
    """SQL for an integer that no other row of the query has; any, and not the same ones in every run."""

    def view_parquet(self, name: str, path: Path) -> None:
        """A view of a Parquet file."""

    def view(self, name: str, query: str) -> None: ...

    def table(self, name: str, query: str) -> None:
        """A table of the query's rows as they are now; the query may read the table that it replaces."""

    def fetch(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query, which are few."""

    def hand_over(self, name: str, query: str) -> None:
        """A view of the query's rows in DuckDB, in this process."""


class DuckDBEngine:
    """A connection; what it hands over stays where it is."""

    number = "CAST(row_number() OVER () AS INTEGER)"  # half of what BIGINT takes in memory

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def view_parquet(self, name: str, path: Path) -> None:
        self.view(name, f"SELECT * FROM read_parquet('{quote(path)}')")

    def view(self, name: str, query: str) -> None:
        self._connection.execute(f"CREATE OR REPLACE VIEW {name} AS {query}")

    def table(self, name: str, query: str) -> None:
        self._connection.execute(f"CREATE OR REPLACE TABLE {name} AS {query}")

    def fetch(self, query: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(query).fetchall()

    def hand_over(self, name: str, query: str) -> None:
        self.view(name, query)
