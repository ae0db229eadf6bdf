"""The address of MLflow's store for any checkout path, and the error messages of one that can't be opened."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tapestry.core.errors import TapestryError
from tapestry.tracking.client import find_runs
from tapestry.tracking.sqlite import has_run
from tapestry.tracking.store import EXPERIMENT, open_store, store_file, store_uri

NAMES = ["plain", "My%20Project", "what? #1", "100%", "a&b=c+d", "über"]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout without a store."""
    return checkout(tmp_path, monkeypatch)


def checkout(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_store_is_in_the_checkout_whatever_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = checkout(tmp_path / name, monkeypatch)
    folder.mkdir()
    client, experiment = open_store()
    run = client.create_run(experiment).info
    client.log_text(run.run_id, "x", "report/index.html")
    assert store_file() == folder / "mlflow.db"
    assert {path.name for path in folder.iterdir()} == {"mlflow.db", "mlflow.db.lock", "mlartifacts"}
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert list((folder / "mlartifacts").rglob("index.html"))
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        assert connection.execute("SELECT run_uuid FROM runs").fetchall() == [(run.run_id,)]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///runs.db", "sqlite:///{root}/runs.db"),
        ("sqlite:///deep/runs.db?timeout=60", "sqlite:///{root}/deep/runs.db?timeout=60"),
        ("sqlite:////elsewhere/runs.db", "sqlite:////elsewhere/runs.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("mlruns", "file://{root}/mlruns"),
        ("./mlruns", "file://{root}/mlruns"),
        ("file:mlruns", "file://{root}/mlruns"),
        ("file:///elsewhere/mlruns", "file:///elsewhere/mlruns"),
        ("/elsewhere/mlruns", "/elsewhere/mlruns"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("databricks", "databricks"),
        ("", "sqlite:///{root}/mlflow.db"),
    ],
)
def test_a_relative_address_is_resolved_against_the_main_checkout(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, uri: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("temporary-checkout"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert store_uri() == expected.format(root=root)


def test_a_run_in_a_temporary_checkout_uses_the_main_checkouts_store(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path_factory.mktemp("temporary-checkout")
    monkeypatch.chdir(temporary)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    client, experiment = open_store()
    client.log_text(client.create_run(experiment).info.run_id, "x", "x.txt")
    assert list(temporary.iterdir()) == []
    assert {path.name for path in root.iterdir()} == {"runs.db", "mlflow.db.lock", "mlartifacts"}


OPEN = "from tapestry.tracking.store import open_store; open_store(); print('opened')"


def opened(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", OPEN], cwd=folder, env=os.environ, capture_output=True, text=True)


def test_a_process_killed_while_it_creates_the_store_leaves_none_or_a_complete_one(root: Path) -> None:
    during = 0
    for attempt in range(6):
        started = subprocess.Popen([sys.executable, "-c", OPEN], cwd=root, env=os.environ)
        deadline = time.monotonic() + 30
        while not list(root.glob(".mlflow.db.*.partial/mlflow.db")) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.15 * attempt)
        started.send_signal(signal.SIGKILL)
        during += started.wait() == -signal.SIGKILL
        if (root / "mlflow.db").exists():
            assert opened(root).returncode == 0
            (root / "mlflow.db").unlink()
    assert during > 0
    assert opened(root).stdout == "opened\n"
    assert {path.name for path in root.iterdir()} == {"mlflow.db", "mlflow.db.lock"}


def test_an_empty_file_is_replaced_by_a_store_created_beside_it(root: Path) -> None:
    (root / "mlflow.db").touch()
    before = (root / "mlflow.db").stat().st_ino
    open_store()
    assert (root / "mlflow.db").stat().st_size > 0
    assert (root / "mlflow.db").stat().st_ino != before


def test_an_incomplete_store_is_reported_with_the_fix(root: Path) -> None:
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        connection.execute("CREATE TABLE experiments (name TEXT)")
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("CREATE TABLE metrics (key TEXT)")
        connection.commit()
    with pytest.raises(TapestryError) as failure:
        open_store()
    assert str(failure.value) == (
        f"{root}/mlflow.db: can't be opened and has no runs; its creation was probably interrupted: remove it"
    )


def test_a_file_that_is_no_database_is_reported(root: Path) -> None:
    (root / "mlflow.db").write_bytes(b"x" * 10_000)
    with pytest.raises(TapestryError) as failure:
        open_store()
    assert str(failure.value) == f"{root}/mlflow.db: file is not a database: move it away, then run again"


def test_a_store_of_another_mlflow_version_with_runs_is_not_to_be_removed(root: Path) -> None:
    client, experiment = open_store()
    client.create_run(experiment)
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
        connection.commit()
    done = opened(root)
    assert done.stderr.splitlines()[-1] == (
        f"tapestry.core.errors.TapestryError: {root}/mlflow.db: created by another version of MLflow: copy it, "
        f"then run `mlflow db upgrade 'sqlite:///{root}/mlflow.db'`"
    )


def test_a_deleted_experiment_is_restored_with_its_runs(capsys: pytest.CaptureFixture[str]) -> None:
    client, experiment = open_store()
    run = client.create_run(experiment).info.run_id
    client.delete_experiment(experiment)
    assert open_store()[1] == experiment
    assert "MLflow's experiment tapestry was deleted: it is restored" in capsys.readouterr().err
    assert client.get_run(run).info.lifecycle_stage == "active"
    client.create_run(experiment)


def test_a_server_that_does_not_respond_is_reported_within_ten_seconds(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for listening in (True, False):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{port}")
            started = time.monotonic()
            with pytest.raises(TapestryError) as failure:
                open_store()
            assert time.monotonic() - started < 10
            assert str(failure.value) == (
                f"MLFLOW_TRACKING_URI: http://127.0.0.1:{port} doesn't respond: start the server, or unset the "
                f"variable to use {root}/mlflow.db"
            )
            if listening:
                silent.close()


def test_a_run_is_found_without_mlflow_as_mlflow_finds_it(root: Path) -> None:
    client, experiment = open_store()
    other = client.create_experiment("other")
    tags = {"stage": "train", "dvc_lock": "a"}
    deleted = client.create_run(experiment, tags=tags | {"who": "deleted"}).info.run_id
    client.delete_run(deleted)
    client.create_run(experiment, tags={"stage": "train", "dvc_lock": "b"}, run_name="named")
    client.create_run(experiment, tags={"stage": "evaluate", "dvc_lock": "c"})
    client.create_run(other, tags={"stage": "train", "dvc_lock": "d"})
    for stage in ("train", "evaluate", "named"):
        for lock in "abcde":
            wanted = {"stage": stage, "dvc_lock": lock}
            assert has_run(root / "mlflow.db", EXPERIMENT, wanted) == bool(find_runs(client, experiment, wanted))
    assert has_run(root / "mlflow.db", EXPERIMENT, {"dvc_lock": "b"})
    assert has_run(root / "mlflow.db", "other", {"dvc_lock": "d"})
    client.restore_run(deleted)
    assert has_run(root / "mlflow.db", EXPERIMENT, tags)
    client.delete_experiment(experiment)
    assert not has_run(root / "mlflow.db", EXPERIMENT, tags)


def test_a_file_that_is_no_store_has_an_error_and_no_run(root: Path) -> None:
    with pytest.raises(sqlite3.Error):
        has_run(root / "mlflow.db", EXPERIMENT, {})
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        connection.execute("CREATE TABLE runs (run_uuid)")
    with pytest.raises(sqlite3.Error):
        has_run(root / "mlflow.db", EXPERIMENT, {})
