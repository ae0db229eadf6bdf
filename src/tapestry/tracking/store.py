"""The address of MLflow's store, and opening it.

The store is the main checkout's `mlflow.db`, unless MLFLOW_TRACKING_URI names another. DVC's temporary checkouts use
the main checkout's store too.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock

from tapestry.core.atomic import atomic_file, disk_full
from tapestry.core.checkout import checkout_root
from tapestry.core.errors import TapestryError
from tapestry.tracking.relocate import artifact_folder, relocate
from tapestry.tracking.sqlite import connect, table_names

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "tapestry"
_SQLITE = "sqlite:///"
_SERVER_TIMEOUT = 4  # seconds to connect to a server, and as many for its response


def store_uri() -> str:
    """Return the store's address: MLFLOW_TRACKING_URI, or else the SQLite store of the main checkout.

    A relative path in MLFLOW_TRACKING_URI is resolved against the main checkout.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return sqlite_uri(checkout_root() / "mlflow.db")
    if uri.startswith(_SQLITE):
        path, mark, options = uri.removeprefix(_SQLITE).partition("?")
        relative = path not in ("", ":memory:") and not path.startswith("/")
        return sqlite_uri(checkout_root() / unquote(path)) + mark + options if relative else uri
    path = uri.removeprefix("file:")
    relative = not path.startswith("/") and (path != uri or ":" not in uri) and uri != "databricks"
    return (checkout_root() / path).as_uri() if relative else uri


def shown_uri() -> str:
    """Return the store's address without its password, for messages and logs."""
    parts = urlsplit(store_uri())
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else store_uri()


def sqlite_uri(path: Path) -> str:
    """Return the address of a database file; `%`, `?` and `#` in its path are quoted.

    MLflow creates the parent folder of a `sqlite:///` path without unquoting the path, so it would create a folder of
    a wrong name. MLflow doesn't do that for an address that names the driver (`sqlite+pysqlite:///`).
    """
    quoted = "".join(quote(character) if character in "%?#" else character for character in str(path))
    return f"{_SQLITE}{quoted}" if quoted == str(path) else f"sqlite+pysqlite:///{quoted}"


def store_file() -> Path | None:
    """Return the store's database file; None if the store is no SQLite file."""
    scheme, found, rest = store_uri().partition(":///")
    path = unquote(rest.partition("?")[0])
    return Path(path) if found and scheme.partition("+")[0] == "sqlite" and path not in ("", ":memory:") else None


def open_store() -> tuple[MlflowClient, str]:
    """Return a client of the store and the id of the experiment `tapestry`; create both if they don't exist.

    Raises:
        TapestryError: the server doesn't respond, or the database is incomplete or of another MLflow version.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    # MLflow's default is 7 retries over minutes; one is enough, since the journal keeps what isn't sent.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")  # seconds
    uri, file = store_uri(), store_file()
    if uri.startswith(("http://", "https://")):
        _require_response(uri)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # logs tracebacks of errors that it raises
    # Two processes that create the tables of a new SQLite store at the same time would break it.
    with FileLock(checkout_root() / "mlflow.db.lock"):
        if file is None:
            return _open_experiment(uri, None)
        artifacts = artifact_folder(file).as_uri()
        if not file.exists() or file.stat().st_size == 0:
            _create_tables(file, artifacts)
        try:
            if moved := relocate(file):
                print(f"MLflow: {moved}", file=sys.stderr)
            return _open_experiment(uri, artifacts)
        except Exception as error:
            line = _describe_open_error(error, file, uri)
            if line is None:
                raise
            raise TapestryError(line) from error


def _open_experiment(uri: str, artifacts: str | None) -> tuple[MlflowClient, str]:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return client, str(client.create_experiment(EXPERIMENT, artifact_location=artifacts))
    if experiment.lifecycle_stage == "deleted":
        print(f"MLflow's experiment {EXPERIMENT} was deleted: it is restored, since runs belong to it", file=sys.stderr)
        client.restore_experiment(experiment.experiment_id)
    return client, str(experiment.experiment_id)


def _create_tables(file: Path, artifacts: str) -> None:
    """Create the tables in a temporary file, so that a killed process leaves no incomplete store (it takes seconds)."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with atomic_file(file) as temporary:
        store = SqlAlchemyStore(sqlite_uri(temporary.absolute()), artifacts)  # type: ignore[no-untyped-call]
        store.engine.dispose()


def _describe_open_error(error: Exception, file: Path, uri: str) -> str | None:
    """Explain why a database can't be opened, and the fix; None if the error itself explains it."""
    if disk_full(error) is not None or isinstance(error, OSError | TapestryError) or "database is locked" in str(error):
        return None
    try:
        with connect(file) as connection:
            has_runs = "runs" in table_names(connection)
            runs = connection.execute("SELECT count(*) FROM runs").fetchone()[0] if has_runs else 0
    except sqlite3.OperationalError:
        return None
    except sqlite3.DatabaseError as found:
        return f"{file}: {found}: move it away, then run again"
    if runs == 0:
        return f"{file}: can't be opened and has no runs; its creation was probably interrupted: remove it"
    if "out-of-date database schema" in str(error):
        return f"{file}: created by another version of MLflow: copy it, then run `mlflow db upgrade '{uri}'`"
    return None


def _require_response(uri: str) -> None:
    """Raise a TapestryError unless a server responds, with any status: MLflow itself would retry for minutes."""
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=_SERVER_TIMEOUT)
    except requests.exceptions.SSLError:
        return  # a server responds; MLflow's settings are for its certificate
    except (requests.ConnectionError, requests.Timeout):
        raise TapestryError(
            f"MLFLOW_TRACKING_URI: {shown_uri()} doesn't respond: start the server, or unset the variable to use "
            f"{checkout_root() / 'mlflow.db'}"
        ) from None
