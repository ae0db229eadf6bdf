"""The rules on Spark: a session of the user's usual configuration, or a local one where there is none."""

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

CONFIGURED_BY = ("SPARK_REMOTE", "SPARK_HOME", "SPARK_CONF_DIR", "PYSPARK_SUBMIT_ARGS", "MASTER")


class SparkEngine:
    """Runs the rules in `session`, and hands results to `connection` by `folder`, which all nodes must see."""

    number = "monotonically_increasing_id()"

    def __init__(self, session: SparkSession, connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
        self._session = session
        self._connection = connection
        self._folder = folder.resolve()

    def view_parquet(self, name: str, path: Path) -> None:
        self._session.read.parquet(path.resolve().as_uri()).createOrReplaceTempView(name)

    def view(self, name: str, query: str) -> None:
        self._session.sql(query).createOrReplaceTempView(name)

    def table(self, name: str, query: str) -> None:
        # Without a checkpoint each round of the k-core would plan, and number, all before it again.
        self._session.sql(query).localCheckpoint(eager=True).createOrReplaceTempView(name)

    def fetch(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._session.sql(query).collect()]

    def hand_over(self, name: str, query: str) -> None:
        folder = self._folder / name
        self._session.sql(query).write.parquet(folder.as_uri())
        # A table, as DuckDB's own are: of a view of files it would write the columns as nullable, in other bytes.
        self._connection.execute(f"CREATE TABLE {name} AS FROM read_parquet('{quote(folder)}/*.parquet')")


@contextmanager
def spark_engine(
    connection: duckdb.DuckDBPyConnection, folder: Path, settings: SessionizeSettings
) -> Iterator[SparkEngine]:
    """An engine on the session that is active, or else a new one, stopped at the end.

    Where none of the variables by which Spark is told of a cluster is set (`CONFIGURED_BY`), that is a local session
    of `settings.threads` threads and `settings.memory_limit`. What Spark hands over lies in a folder beside `folder`,
    and is gone at the end.

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
    if not any(os.environ.get(name) for name in CONFIGURED_BY):
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
        with temporary_folder(folder.with_name(f"{folder.name}.spark")) as shared:
            yield SparkEngine(session, connection, shared)
    except PySparkException as error:
        raise TapestryError(
            f"sessionize.engine: Spark failed: {error}\n"
            f"Every node must see the files of {folder.parent.resolve()}, by a file system that they share, under that "
            "name, and run on Java 17 or newer."
        ) from error
    finally:
        if active is None and (started := SparkSession.getActiveSession()) is not None:
            started.stop()


def _require_java() -> None:
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java", path=f"{home}/bin" if home else None) is None:
        raise TapestryError(
            f"sessionize.engine: spark needs Java 17 or newer, and there is no {f'{home}/bin/java' if home else 'java'}"
            ": install a JRE (Debian: apt install openjdk-17-jre-headless) or set JAVA_HOME, or set sessionize.engine "
            "to duckdb"
        )
