"""DuckDB connections with bounded memory and threads, and Parquet whose bytes depend on content alone."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow.parquet

from tapestry.core.atomic import atomic_file, temporary_folder
from tapestry.core.errors import TapestryError

_OF_THE_LIMIT = 0.65  # measured: DuckDB counts its buffers alone, and a process at its limit takes half as much again


@contextmanager
def connect(memory_limit: str, threads: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-process database that keeps the process to about `memory_limit` (such as 2GB), and spills to a folder of
    TMPDIR what is more; the next one removes what a killed process left there.

    Raises:
        TapestryError: DuckDB doesn't understand `memory_limit`, or can't do with it what it is asked.
        OSError: the disk of the spill folder is full.
    """
    with temporary_folder(Path(tempfile.gettempdir(), "tapestry-spill")) as spill, duckdb.connect() as connection:
        connection.execute(f"SET threads = {threads}")
        connection.execute(f"SET enable_progress_bar = {sys.stdout.isatty()}")
        connection.execute(f"SET temp_directory = '{quote(spill)}'")
        try:
            limit = scalar(connection, f"SELECT parse_formatted_bytes('{quote(memory_limit)}')")
            connection.execute(f"SET memory_limit = '{int(_OF_THE_LIMIT * limit)} B'")
        except duckdb.Error as error:
            raise TapestryError(f"memory_limit: {memory_limit!r} is not a size such as 2GB") from error
        try:
            yield connection
        except duckdb.OutOfMemoryException as error:
            if "max_temp_directory_size" in str(error):  # as large as the disk allows, unless it is set
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(spill)) from error
            raise TapestryError(
                f"memory_limit: {memory_limit} is too little here for {threads} threads; raise it, or lower threads. "
                f"DuckDB: {str(error).splitlines()[0]}"
            ) from error


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
