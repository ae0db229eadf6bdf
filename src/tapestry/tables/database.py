"""DuckDB connections with limits on memory and threads, and Parquet files whose bytes depend only on their rows."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from tapestry.core.atomic import atomic_file, temporary_folder
from tapestry.core.errors import TapestryError

# DuckDB's own limit counts only its buffers. Measured: at that limit the process uses 1.5 times as much.
_BUFFER_SHARE = 0.65


@contextmanager
def connect(memory_limit: str, threads: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory database. The process uses about `memory_limit` (such as 2GB).

    Larger data spills to a folder in TMPDIR. The folder is removed at the end. If the process is killed, the next
    connection removes it.

    Raises:
        TapestryError: DuckDB can't parse `memory_limit`, or a query needs more memory than that.
        OSError: The disk of the spill folder is full.
    """
    with temporary_folder(Path(tempfile.gettempdir(), "tapestry-spill")) as spill, duckdb.connect() as connection:
        connection.execute(f"SET threads = {threads}")
        connection.execute(f"SET enable_progress_bar = {sys.stdout.isatty()}")
        connection.execute(f"SET temp_directory = '{quote(spill)}'")
        try:
            limit = scalar(connection, f"SELECT parse_formatted_bytes('{quote(memory_limit)}')")
            connection.execute(f"SET memory_limit = '{int(_BUFFER_SHARE * limit)} B'")
        except duckdb.Error as error:
            raise TapestryError(f"memory_limit: {memory_limit!r} is not a size such as 2GB") from error
        try:
            yield connection
        except duckdb.OutOfMemoryException as error:
            if "max_temp_directory_size" in str(error):  # DuckDB's default for it is the free space of the disk
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(spill)) from error
            raise TapestryError(
                f"memory_limit: {memory_limit} is too little here for {threads} threads; raise it, or lower threads. "
                f"DuckDB: {str(error).splitlines()[0]}"
            ) from error


def quote(text: str | Path) -> str:
    """Escape a text for use between single quotes in SQL."""
    return str(text).replace("'", "''")


def write_parquet(
    connection: duckdb.DuckDBPyConnection, query: str, path: Path, check: Callable[[Path], None] | None = None
) -> None:
    """Write the rows of a query as Parquet, atomically. The same rows in the same order give the same bytes.

    Args:
        check: Is called with the temporary file before it replaces `path`. If it raises, `path` stays unchanged.
    """
    with atomic_file(path) as temporary:
        connection.execute(
            f"COPY ({query}) TO '{quote(temporary)}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880)"
        )
        if check is not None:
            check(temporary)


def scalar(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    """Return the integer of a query that returns one row of one column; 0 for NULL."""
    # fetchall, unlike fetchone, completes the result. DuckDB refuses `register` while a result is incomplete.
    ((value,),) = connection.execute(query).fetchall()
    return int(value or 0)
