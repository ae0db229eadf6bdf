"""Moving house: MLflow keeps the absolute address of each artifact folder, of the place where it was made.

A SQLite store and the `mlartifacts/` beside it belong together. Where an experiment of the store has the `mlartifacts/`
of another place, the store was moved or copied, and all locations under that folder are changed to the one here, so
that artifacts open and a copy writes nothing into the original. To keep artifacts on another disk on purpose, make
`mlartifacts` a symbolic link.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from tapestry.core.atomic import SQLITE_FULL
from tapestry.core.errors import TapestryError

_FOLDER = "mlartifacts"
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)
"""Where MLflow 3 keeps locations."""

_WAIT = 5  # seconds for another process that writes


def artifact_folder(file: Path) -> Path:
    """Where the artifacts of a SQLite store belong."""
    return file.parent / _FOLDER


def stale_locations(file: Path) -> list[str]:
    """The folders of other places in which this SQLite store would look for artifacts, and write new ones.

    Raises:
        TapestryError: the store is locked.
        sqlite3.DatabaseError: it is no database.
    """
    with _connected(file) as connection:
        return [str(_path(root)) for root in _stale_roots(connection, file)]


def relocate(file: Path) -> str:
    """Make a SQLite store's artifact locations lead to the `mlartifacts/` beside it: all of them, or none.

    Returns:
        What was done, in a line; empty if there was nothing to do.

    Raises:
        TapestryError: the store is locked or can't be written to.
        sqlite3.DatabaseError: it is no database.
    """
    if not stale_locations(file):
        return ""
    changed, told = 0, []
    here = artifact_folder(file)
    with _connected(file) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for root in _stale_roots(connection, file):
            for table, column in _known_columns(connection):
                changed += _replace(connection, table, column, root, here.absolute().as_uri())
            told.append(str(_path(root)))
        connection.execute("COMMIT")
    missing = [folder for folder in told if not here.exists() and Path(folder).exists()]
    return (
        f"{file} was made elsewhere: {changed} artifact locations lead to {here} now, no longer to {', '.join(told)}"
        + (f"; copy {missing[0]} to {here}, the artifacts are not there yet" if missing else "")
    )


def _stale_roots(connection: sqlite3.Connection, file: Path) -> list[str]:
    """Addresses that `tapestry.tracking.store` gave its experiment in another place."""
    if ("experiments", "artifact_location") not in _known_columns(connection):
        return []
    found = connection.execute("SELECT DISTINCT artifact_location FROM experiments ORDER BY artifact_location")
    roots = [uri for (uri,) in found if uri and uri.startswith("file:///") and uri.endswith(f"/{_FOLDER}")]
    here = artifact_folder(file).resolve()
    return [root for root in roots if _path(root).resolve() != here]


def _known_columns(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Those of the columns that this MLflow's tables have."""
    return [
        (table, column)
        for table, column in _COLUMNS
        if column in {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
    ]


def _replace(connection: sqlite3.Connection, table: str, column: str, old: str, new: str) -> int:
    """Change the addresses of `old` and of what lies in it; how many there were."""
    done = connection.execute(
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
        (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
    )
    return done.rowcount


def _path(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


@contextmanager
def _connected(file: Path) -> Iterator[sqlite3.Connection]:
    """A connection without implicit transactions; what isn't committed is undone at its end."""
    try:
        address = f"file:{quote(str(file.absolute()))}?mode=rw"
        with closing(sqlite3.connect(address, timeout=_WAIT, isolation_level=None, uri=True)) as connection:
            yield connection
    except sqlite3.OperationalError as error:
        if SQLITE_FULL in str(error):
            raise
        mend = "end what uses it" if "locked" in str(error) else "make it writable"
        raise TapestryError(
            f"{file}: {error}: artifacts can't be looked for in {artifact_folder(file)}; {mend}, then "
            "run `tapestry relocate`"
        ) from error
