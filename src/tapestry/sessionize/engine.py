"""The SQL engine that applies the filter rules: the interface, and its DuckDB implementation in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import duckdb

from tapestry.tables.database import quote


class Engine(Protocol):
    """Runs SQL that both DuckDB and Spark understand. A new view or table replaces an old one of the same name."""

    unique_integer: str
    """SQL expression: an integer that differs in every row of a query. Its values may differ from run to run."""

    def view_parquet(self, name: str, path: Path) -> None:
        """Create a view of a Parquet file."""

    def view(self, name: str, query: str) -> None:
        """Create a view: the query runs each time that the view is read."""

    def table(self, name: str, query: str) -> None:
        """Create a table: the query runs once, now. It may read the old table that it replaces."""

    def fetch(self, query: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query, all in memory: for small results."""

    def export_to_duckdb(self, name: str, query: str) -> None:
        """Make the rows of a query readable under `name` in the DuckDB database of this process."""


class DuckDBEngine:
    """Runs the rules in a DuckDB connection of this process."""

    unique_integer = "CAST(row_number() OVER () AS INTEGER)"  # INTEGER takes half the memory of BIGINT

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

    def export_to_duckdb(self, name: str, query: str) -> None:
        self.view(name, query)
