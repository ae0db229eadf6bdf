"""Connections to a SQLite store's file, for what MLflow's client doesn't do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import quote

_LOCK_TIMEOUT = 5  # seconds to wait for another process that writes


@contextmanager
def connect(file: Path, mode: Literal["ro", "rw"] = "ro") -> Iterator[sqlite3.Connection]:
    """Yield a connection to an existing database file, without implicit transactions.

    The block's changes are rolled back at its end unless it commits them.

    Args:
        mode: `ro` to read only, `rw` to read and write.

    Raises:
        sqlite3.OperationalError: the file is missing, locked or not accessible.
        sqlite3.DatabaseError: the file is no SQLite database.
    """
    address = f"file:{quote(str(file.absolute()))}?mode={mode}"
    with closing(sqlite3.connect(address, timeout=_LOCK_TIMEOUT, isolation_level=None, uri=True)) as connection:
        yield connection


def table_names(connection: sqlite3.Connection) -> set[str]:
    """Return the names of the database's tables."""
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def has_run(file: Path, experiment: str, tags: Mapping[str, str]) -> bool:
    """Say whether a store's experiment has a run, not deleted, with all these tags.

    MLflow's client says it too, but takes seconds to load.

    Raises:
        sqlite3.Error: as `connect`, or the database is no store of MLflow.
    """
    tagged = " AND EXISTS (SELECT 1 FROM tags WHERE run_uuid = runs.run_uuid AND key = ? AND value = ?)" * len(tags)
    query = (
        "SELECT 1 FROM runs JOIN experiments USING (experiment_id) "
        "WHERE experiments.name = ? AND experiments.lifecycle_stage = 'active' AND runs.lifecycle_stage = 'active'"
    )
    values = [text for tag in tags.items() for text in tag]
    with connect(file) as connection:
        return connection.execute(f"{query}{tagged} LIMIT 1", [experiment, *values]).fetchone() is not None
