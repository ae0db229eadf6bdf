"""The Spark engine: runs the rules in a Spark session that the user configured, or else in a local one."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from tapestry.core.atomic import temporary_folder
from tapestry.core.errors import TapestryError
from tapestry.sessionize.settings import SessionizeSettings
from tapestry.tables.database import quote, scalar

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

CONFIGURATION_VARIABLES = ("SPARK_REMOTE", "SPARK_HOME", "SPARK_CONF_DIR", "PYSPARK_SUBMIT_ARGS", "MASTER")
"""Environment variables that configure Spark. If none is set, the session is local."""


class SparkEngine:
    """Runs the rules in `session`. Results reach DuckDB as Parquet files in `folder`, on a file system that all nodes
    share."""

    unique_integer = "monotonically_increasing_id()"

    def __init__(self, session: SparkSession, connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
        self._session = session
        self._connection = connection
        self._folder = folder.resolve()

    def view_parquet(self, name: str, path: Path) -> None:
        self._session.read.parquet(path.resolve().as_uri()).createOrReplaceTempView(name)

    def view(self, name: str, query: str) -> None:
        self._session.sql(query).createOrReplaceTempView(name)

    def table(self, name: str, query: str) -> None:
        # A plain view would run again, with all views before it, in each round of the k-core. The integers of
        # monotonically_increasing_id could then differ.
        self._session.sql(query).localCheckpoint(eager=True).createOrReplaceTempView(name)

    def fetch(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._session.sql(query).collect()]

    def export_to_duckdb(self, name: str, query: str) -> None:
        folder = self._folder / name
        self._session.sql(query).write.parquet(folder.as_uri())
        # A table, as with the DuckDB engine: from a view of files DuckDB would write nullable columns, in other bytes.
        self._connection.execute(f"CREATE TABLE {name} AS FROM read_parquet('{quote(folder)}/*.parquet')")


@contextmanager
def spark_engine(
    connection: duckdb.DuckDBPyConnection, folder: Path, settings: SessionizeSettings
) -> Iterator[SparkEngine]:
    """Yield an engine on the active Spark session. If there is none, start a session and stop it at the end.

    If no environment variable configures Spark (`CONFIGURATION_VARIABLES`), the new session is local, with
    `settings.threads` threads and `settings.memory_limit` of memory. Results pass to DuckDB through a temporary folder
    beside `folder`.

    Raises:
        TapestryError: PySpark or Java is missing, or Spark failed.
    """
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise TapestryError(
            "sessionize.engine: spark needs PySpark: install it with pip install 'tapestry[spark]' (in the checkout: "
            "make spark), or set sessionize.engine to duckdb"
        ) from error
    if not os.environ.get("SPARK_REMOTE"):
        _require_java()
    builder = SparkSession.builder.appName("tapestry sessionize")
    if not any(os.environ.get(name) for name in CONFIGURATION_VARIABLES):
        memory = scalar(connection, f"SELECT parse_formatted_bytes('{quote(settings.memory_limit)}')")
        options = {
            "spark.master": f"local[{settings.threads}]",
            "spark.driver.memory": f"{memory // 2**20}m",
            "spark.sql.shuffle.partitions": 4 * settings.threads,
            "spark.ui.showConsoleProgress": sys.stderr.isatty(),
        }
        builder = builder.config(map=options)
    active = SparkSession.getActiveSession()
    try:
        session = active or builder.getOrCreate()
        with temporary_folder(folder.with_name(f"{folder.name}.spark")) as shared, _unconstrained(session):
            yield SparkEngine(session, connection, shared)
    except PySparkException as error:
        raise TapestryError(
            f"sessionize.engine: Spark failed: {error}\n"
            f"Every node must see {folder.parent.resolve()}, at the same path of a shared file system, and run Java 17 "
            "or newer."
        ) from error
    finally:
        if active is None and (started := SparkSession.getActiveSession()) is not None:
            started.stop()


@contextmanager
def _unconstrained(session: SparkSession) -> Iterator[None]:
    """Switch off the propagation of constraints for a while.

    Of tables that were checkpointed several times, Spark keeps constraints on columns that are no longer there, and a
    union of two such tables, as in the late rounds of the k-core, fails with "key not found".
    """
    option = "spark.sql.constraintPropagation.enabled"
    before = session.conf.get(option)
    session.conf.set(option, "false")
    try:
        yield
    finally:
        session.conf.set(option, str(before))


def _require_java() -> None:
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java", path=f"{home}/bin" if home else None) is None:
        raise TapestryError(
            f"sessionize.engine: spark needs Java 17 or newer, but {f'{home}/bin/java' if home else 'java'} is missing"
            ": install a JRE (Debian: apt install openjdk-17-jre-headless) or set JAVA_HOME, or set sessionize.engine "
            "to duckdb"
        )
