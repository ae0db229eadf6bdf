"""Where MLflow's store is, and opening it: one for every way of running.

It is the main checkout's `mlflow.db`, also from DVC's temporary checkouts, unless MLFLOW_TRACKING_URI names another.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock

from tapestry.core.atomic import atomic_file, disk_full
from tapestry.core.checkout import checkout_root
from tapestry.core.errors import TapestryError
from tapestry.tracking.relocate import artifact_folder, relocate

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "tapestry"
_SQLITE = "sqlite:///"
_ANSWER_SECONDS = 4  # to connect, and as many to answer


def store_uri() -> str:
    """MLFLOW_TRACKING_URI, a relative path in it taken from the main checkout, or that checkout's SQLite store."""
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
    """The store's address as it may be printed and kept: without a password."""
    parts = urlsplit(store_uri())
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else store_uri()


def sqlite_uri(path: Path) -> str:
    """The address of a database file, whatever its path has in it.

    MLflow makes the parent folder of a `sqlite:///` path without reading its quotes, so of a wrong name: the driver's
    name keeps it from that.
    """
    quoted = "".join(quote(character) if character in "%?#" else character for character in str(path))
    return f"{_SQLITE}{quoted}" if quoted == str(path) else f"sqlite+pysqlite:///{quoted}"


def store_file() -> Path | None:
    """The store's database file; None of a store that is none."""
    scheme, found, rest = store_uri().partition(":///")
    path = unquote(rest.partition("?")[0])
    return Path(path) if found and scheme.partition("+")[0] == "sqlite" and path not in ("", ":memory:") else None


def open_store() -> tuple[MlflowClient, str]:
    """A client of the store and the id of the experiment in it; both are made if they aren't there.

    Raises:
        TapestryError: the store doesn't answer, or is half-made or of another MLflow.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # of 7, over minutes: what isn't sent is kept
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")  # seconds
    uri, file = store_uri(), store_file()
    if uri.startswith(("http://", "https://")):
        _require_answer(uri)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # prints what it raises, traceback and all
    # Two processes that create the tables of a fresh SQLite store at once break it.
    with FileLock(checkout_root() / "mlflow.db.lock"):
        if file is None:
            return _open_experiment(uri, None)
        artifacts = artifact_folder(file).as_uri()
        if not file.exists() or file.stat().st_size == 0:
            _make(file, artifacts)
        try:
            if moved := relocate(file):
                print(f"MLflow: {moved}", file=sys.stderr)
            return _open_experiment(uri, artifacts)
        except Exception as error:
            line = _explained(error, file, uri)
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
        print(f"MLflow's experiment {EXPERIMENT} had been deleted: restored, since runs belong to it", file=sys.stderr)
        client.restore_experiment(experiment.experiment_id)
    return client, str(experiment.experiment_id)


def _make(file: Path, artifacts: str) -> None:
    """Make the tables apart, in seconds, so that a process killed meanwhile leaves no half of them."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with atomic_file(file) as temporary:
        store = SqlAlchemyStore(sqlite_uri(temporary.absolute()), artifacts)  # type: ignore[no-untyped-call]
        store.engine.dispose()


def _explained(error: Exception, file: Path, uri: str) -> str | None:
    """What is wrong with a database that can't be opened, and the mend; None where the error itself should tell."""
    if disk_full(error) is not None or isinstance(error, OSError | TapestryError) or "database is locked" in str(error):
        return None
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            runs = connection.execute("SELECT count(*) FROM runs").fetchone()[0] if "runs" in tables else 0
    except sqlite3.OperationalError:
        return None
    except sqlite3.DatabaseError as found:
        return f"{file}: {found}: move it away, and run again"
    if runs == 0:
        return f"{file}: it has no run and can't be opened, as when a process is killed while it makes one: remove it"
    if "out-of-date database schema" in str(error):
        return f"{file}: made by another version of MLflow: copy it, then run `mlflow db upgrade '{uri}'`"
    return None


def _require_answer(uri: str) -> None:
    """Raise a TapestryError unless a server answers, whatever it says: MLflow itself would ask for minutes."""
    import requests

    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=_ANSWER_SECONDS)
    except requests.exceptions.SSLError:
        return  # there is a server; MLflow has settings for its certificate
    except (requests.ConnectionError, requests.Timeout):
        raise TapestryError(
            f"MLFLOW_TRACKING_URI: {shown_uri()} doesn't answer: start the server, or unset the variable to use "
            f"{checkout_root() / 'mlflow.db'}"
        ) from None
