"""Update the artifact locations of a SQLite store that was moved or copied.

MLflow stores the absolute address of each artifact folder. In Tapestry, a SQLite store and the `mlartifacts/` folder
beside it belong together. If an experiment of the store refers to the `mlartifacts/` of another folder, the store was
moved or copied. Then all locations below that folder are changed to the `mlartifacts/` beside the store, so that
artifacts open, and a copy writes nothing into the original. To keep artifacts on another disk on purpose, make
`mlartifacts` a symbolic link.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tapestry.core.atomic import SQLITE_FULL
from tapestry.core.errors import TapestryError
from tapestry.tracking.sqlite import connect

_FOLDER = "mlartifacts"
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)
"""The tables and columns in which MLflow 3 stores locations."""


def artifact_folder(file: Path) -> Path:
    """Return the folder for the artifacts of the SQLite store `file`."""
    return file.parent / _FOLDER


def stale_locations(file: Path) -> list[str]:
    """List the `mlartifacts/` folders of other directories that this SQLite store refers to.

    Raises:
        TapestryError: the store is locked.
        sqlite3.DatabaseError: it is no database.
    """
    with _connected(file) as connection:
        return [str(_path(root)) for root in _stale_roots(connection, file)]


def relocate(file: Path) -> str:
    """Change a SQLite store's artifact locations to the `mlartifacts/` folder beside it: all of them, or none.

    Returns:
        One line that says what was changed; empty if nothing was to change.

    Raises:
        TapestryError: the store is locked or can't be written to.
        sqlite3.DatabaseError: it is no database.
    """
    if not stale_locations(file):
        return ""
    changed, old_folders = 0, []
    here = artifact_folder(file)
    with _connected(file) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for root in _stale_roots(connection, file):
            for table, column in _known_columns(connection):
                changed += _replace(connection, table, column, root, here.absolute().as_uri())
            old_folders.append(str(_path(root)))
        connection.execute("COMMIT")
    missing = [folder for folder in old_folders if not here.exists() and Path(folder).exists()]
    return (
        f"{file} was created in another folder: {changed} artifact locations now refer to {here}, no longer to "
        f"{', '.join(old_folders)}"
        + (f"; copy {missing[0]} to {here}, the artifacts are not there yet" if missing else "")
    )


def _stale_roots(connection: sqlite3.Connection, file: Path) -> list[str]:
    """Return the artifact locations of experiments that `tapestry.tracking.store` created in another directory."""
    if ("experiments", "artifact_location") not in _known_columns(connection):
        return []
    found = connection.execute("SELECT DISTINCT artifact_location FROM experiments ORDER BY artifact_location")
    roots = [uri for (uri,) in found if uri and uri.startswith("file:///") and uri.endswith(f"/{_FOLDER}")]
    here = artifact_folder(file).resolve()
    return [root for root in roots if _path(root).resolve() != here]


def _known_columns(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return those of `_COLUMNS` that exist in this store: tables differ by MLflow version."""
    return [
        (table, column)
        for table, column in _COLUMNS
        if column in {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    ]


def _replace(connection: sqlite3.Connection, table: str, column: str, old: str, new: str) -> int:
    """Replace the prefix `old` of a column's addresses by `new`, and return the number of changed values."""
    done = connection.execute(
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
        (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
    )
    return done.rowcount


def _path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


@contextmanager
def _connected(file: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection for reading and writing; explain an error of SQLite, and how to fix it."""
    try:
        with connect(file, "rw") as connection:
            yield connection
    except sqlite3.OperationalError as error:
        if SQLITE_FULL in str(error):
            raise
        fix = "end the process that uses it" if "locked" in str(error) else "make it writable"
        raise TapestryError(
            f"{file}: {error}: its artifacts can't be looked up in {artifact_folder(file)}; {fix}, then "
            "run `tapestry relocate`"
        ) from error
