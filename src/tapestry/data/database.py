"""DuckDB connections with bounded memory and threads, and Parquet whose bytes depend on content alone."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow.parquet

from tapestry.atomic import atomic_file
from tapestry.errors import TapestryError


@contextmanager
def connect(memory_limit: str, threads: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-process database that spills to a temporary folder above `memory_limit` (such as 2GB).

    Raises:
        TapestryError: DuckDB doesn't understand `memory_limit`.
    """
    with tempfile.TemporaryDirectory(prefix="tapestry-") as spill, duckdb.connect() as connection:
        connection.execute(f"SET threads = {threads}")
        connection.execute(f"SET temp_directory = '{quote(spill)}'")
        try:
            connection.execute(f"SET memory_limit = '{quote(memory_limit)}'")
        except duckdb.Error as error:
            raise TapestryError(f"memory_limit: {memory_limit!r} is not a size such as 2GB") from error
        yield connection


def quote(text: str | Path) -> str:
    """Escape text for use between single quotes in SQL."""
    return str(text).replace("'", "''")


def write_parquet(
    connection: duckdb.DuckDBPyConnection, query: str, path: Path, check: Callable[[Path], None] | None = None
) -> None:
    """Write a query's rows atomically. Same rows in the same (total) order give the same bytes.

    `check` is given what was written, and raises if it mustn't be trusted: then nothing is.
    """
    with atomic_file(path) as temporary:
        connection.execute(
            f"COPY ({query}) TO '{quote(temporary)}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880)"
        )
        if check is not None:
            check(temporary)


def count_rows(path: Path) -> int:
    """The rows of a Parquet file."""
    return int(pyarrow.parquet.read_metadata(path).num_rows)


def scalar(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    """The single integer that a query returns."""
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0] or 0)
