"""One MLflow store for every stage, also when several open it at once."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from typer.testing import CliRunner

from tapestry.cli import app
from tapestry.core.errors import TapestryError
from tapestry.provenance.hashes import content_hash
from tapestry.tracking.delivery import send_left
from tapestry.tracking.names import flatten_metrics
from tapestry.tracking.runs import stage_run
from tapestry.tracking.store import open_store, store_uri

STAGE = """
from tapestry.tracking.runs import stage_run
with stage_run("ingest@Books", {"ingest.threads": 2}) as run:
    run.log_metrics({"rows": 3, "reasons": {"blank line": 1}}, "ingest")
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new store, to copy: making one takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("store")
        patch.setenv("DVC_ROOT", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_store()
        return folder / "mlflow.db"


@pytest.fixture
def stored(root: Path, store: Path) -> None:
    shutil.copy(store, root)
    open_store()  # which finds that the store has moved


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout without a store, as the working directory."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def runs() -> list[Run]:
    client = MlflowClient(store_uri())
    experiment = client.get_experiment_by_name("tapestry")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_three_stages_at_once_on_a_fresh_store_all_leave_their_row(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("temporary-checkout")
    started = [subprocess.Popen([sys.executable, "-c", STAGE], cwd=elsewhere, env=os.environ) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert (root / "mlflow.db").is_file()
    found = runs()
    assert len(found) == 3
    for run in found:
        assert run.info.status == "FINISHED"
        assert run.data.params == {"ingest.threads": "2"}
        assert run.data.metrics["ingest/rows"] == 3.0
        assert (run.data.tags["stage"], run.data.tags["domain"]) == ("ingest", "Books")


@pytest.mark.usefixtures("stored")
def test_a_stage_that_fails_says_why_in_its_row() -> None:
    with pytest.raises(TapestryError), stage_run("sessionize", {}):
        raise TapestryError("no user is left")
    (row,) = runs()
    assert row.info.status == "FAILED"
    assert row.data.tags["error"] == "TapestryError: no user is left"


@pytest.mark.usefixtures("stored")
def test_what_was_sent_is_the_same_when_it_is_sent_again(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As after a process that was killed while it sent."""
    kept = tmp_path_factory.mktemp("kept")
    (root / "report.html").write_text("<p>")
    with stage_run("train", {"model.width": 8}) as run:
        for epoch in (1, 2):
            run.log_points({"val/hr_10": epoch / 10}, epoch)
        run.keep(root / "report.html", "report/index.html")
        run.read(root / "report.html", "training")
        shutil.copytree(root / "mlflow.pending", kept, dirs_exist_ok=True)
    assert not list((root / "mlflow.pending").iterdir())
    client, _ = open_store()
    (before,) = runs()
    for _ in range(2):
        shutil.copytree(kept, root / "mlflow.pending", dirs_exist_ok=True)
        assert send_left() == (1, [])
    (row,) = runs()
    assert row.info.run_id == before.info.run_id
    history = client.get_metric_history(row.info.run_id, "val/hr_10")
    assert [(point.step, point.value) for point in history] == [(1, 0.1), (2, 0.2)]
    assert [file.path for file in client.list_artifacts(row.info.run_id, "report")] == ["report/index.html"]
    assert row.inputs is not None
    (read,) = row.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest, read.tags[0].value) == (
        (root / "report.html").as_posix(),
        hashlib.sha256(b"<p>").hexdigest()[:36],
        "training",
    )


EPOCHS = """
from tapestry.tracking.runs import stage_run
with stage_run("train", {"train.epochs": 8}) as run:
    for epoch in range(1, 9):
        run.log_points({"val/hr_10": epoch / 10}, epoch)
        if epoch == 4:
            input()
print("model saved")
"""


def training() -> subprocess.Popen[str]:
    """A stage of eight epochs, in a process of its own, which goes on after the fourth when a line is written to it."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", EPOCHS]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=os.environ, text=True)


def goes_on(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What the stage printed, on standard output and error, until its good end."""
    printed, told = process.communicate("\n", timeout=90)
    assert process.returncode == 0, told
    return printed, told


def wait_for_row() -> Run:
    """The row of the stage that runs now, as soon as it has a figure."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for found in runs():
            if "val/hr_10" in found.data.metrics:
                return found
        time.sleep(0.1)
    pytest.fail("no row")


def curve(run: Run) -> list[tuple[int, float]]:
    history = MlflowClient(store_uri()).get_metric_history(run.info.run_id, "val/hr_10")
    return [(point.step, point.value) for point in history]


WHOLE = [(epoch, epoch / 10) for epoch in range(1, 9)]


def assert_kept_then_sent(process: subprocess.Popen[str], root: Path, reason: str) -> None:
    """That the stage ended well, said in one line why figures are kept, and that they are there once sent."""
    printed, told = goes_on(process)
    assert printed == "model saved\n"
    (line,) = told.splitlines()
    kept = f"the run goes on, its figures are kept in {root}/mlflow.pending, and `tapestry sync` sends them"
    assert re.fullmatch(f"MLflow: {reason}; {kept}", line)


@pytest.mark.usefixtures("stored")
def test_a_store_that_stays_locked_costs_the_run_nothing(root: Path) -> None:
    process = training()
    row = wait_for_row()
    with closing(sqlite3.connect(root / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert_kept_then_sent(process, root, f"sqlite:///{root}/mlflow.db(: database is locked| doesn't answer)")
    assert runs()[0].info.status == "RUNNING"
    assert send_left() == (1, [])
    (row,) = runs()
    assert row.info.status == "FINISHED"
    assert curve(row) == WHOLE


@pytest.mark.usefixtures("stored")
def test_an_experiment_that_is_deleted_meanwhile_is_restored() -> None:
    process = training()
    client = MlflowClient(store_uri())
    client.delete_experiment(wait_for_row().info.experiment_id)
    _, told = goes_on(process)
    assert "MLflow's experiment tapestry had been deleted: restored" in told
    (row,) = runs()
    assert row.info.status == "FINISHED"
    assert curve(row) == WHOLE


def test_a_store_that_can_not_be_read_costs_the_run_nothing(root: Path, store: Path) -> None:
    (root / "mlflow.db").write_bytes(b"x" * 10_000)
    assert_kept_then_sent(training(), root, f"{root}/mlflow.db: file is not a database: move it away, and run again")
    shutil.copy(store, root / "mlflow.db")
    open_store()
    assert CliRunner().invoke(app, ["sync"]).output == "1 run sent\n"
    (row,) = runs()
    assert row.info.status == "FINISHED"
    assert curve(row) == WHOLE


@contextmanager
def server(root: Path, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{root}/mlflow.db", "--artifacts-destination", str(root / "served")]
    with (root / "server.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health"):
                break
            time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.usefixtures("stored")
def test_a_server_that_goes_away_costs_the_run_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with server(root, port):
        process = training()
        wait_for_row()
    reason = f".*http://127.0.0.1:{port}.*"
    assert_kept_then_sent(process, root, reason)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (folder,) = (root / "mlflow.pending").iterdir()
    assert send_left() == (
        0,
        [f"{folder.name}: it is for http://127.0.0.1:{port}; set MLFLOW_TRACKING_URI to it"],
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with server(root, port):
        assert send_left() == (1, [])
        (row,) = runs()
        assert row.info.status == "FINISHED"
        assert curve(row) == WHOLE


@pytest.mark.usefixtures("stored")
def test_the_row_of_a_killed_run_is_closed_by_the_next(root: Path) -> None:
    process = training()
    wait_for_row()
    process.kill()
    process.communicate()
    (row,) = runs()
    assert row.info.status == "RUNNING"
    with stage_run("sessionize", {}):
        pass
    by_stage = {run.data.tags["stage"]: run for run in runs()}
    killed = by_stage["train"]
    assert killed.info.run_id == row.info.run_id
    assert killed.info.status == "KILLED"
    assert killed.data.tags["error"] == "the process was killed"
    assert killed.info.end_time <= by_stage["sessionize"].info.start_time
    assert curve(killed) == WHOLE[:4]
    assert by_stage["sessionize"].info.status == "FINISHED"
    assert not list((root / "mlflow.pending").iterdir())


@pytest.mark.usefixtures("stored")
def test_a_journal_that_is_damaged_holds_no_other_up(root: Path) -> None:
    damaged = root / "mlflow.pending/1-x"
    damaged.mkdir(parents=True)
    (damaged / "events.jsonl").write_text("no JSON\n")
    with stage_run("sessionize", {}):
        pass
    (row,) = runs()
    assert row.info.status == "FINISHED"
    assert list((root / "mlflow.pending").iterdir()) == [damaged]
    done = CliRunner().invoke(app, ["sync"])
    assert done.exit_code == 1
    assert f"sync: error: not sent: {damaged}: damaged (" in done.output


@pytest.mark.usefixtures("stored")
def test_a_run_that_goes_on_is_left_alone_by_others(root: Path) -> None:
    process = training()
    wait_for_row()
    assert send_left() == (0, [])
    goes_on(process)
    (row,) = runs()
    assert (row.info.status, curve(row)) == ("FINISHED", WHOLE)


def test_a_checkout_that_can_not_be_written_to_costs_the_run_nothing(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "mlflow.pending").write_text("in the way")
    with stage_run("train", {"model.width": 8}) as run:
        run.log_points({"val/hr_10": 0.5}, 1)
        run.keep(root, "x")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"MLflow: {root}/mlflow.pending/")
    assert line.endswith(": Not a directory: figures of this stage may be missing there")


def test_an_input_that_is_edited_while_a_stage_runs_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stored: None
) -> None:
    monkeypatch.chdir(root)
    (root / "dvc.yaml").write_text("stages: {ingest: {deps: ['raw/${item.domain}', code.py, gone.py]}}")
    (root / "raw/Books").mkdir(parents=True)
    (root / "raw/Books/a.json").write_text("{}")
    (root / "code.py").write_text("1")
    with stage_run("ingest@Books", {}):
        (root / "code.py").write_text("22")
    told = capsys.readouterr().err
    assert "ingest@Books: code.py changed while the stage ran: DVC notes the new content" in told
    (row,) = runs()
    files = json.dumps([{"md5": hashlib.md5(b"{}").hexdigest(), "relpath": "a.json"}])
    assert json.loads(row.data.tags["dvc_inputs"]) == {
        "raw/Books": hashlib.md5(files.encode()).hexdigest() + ".dir",
        "code.py": hashlib.md5(b"1").hexdigest(),
    }
    assert json.loads(row.data.tags["inputs_changed"]) == ["code.py"]
    with stage_run("ingest@Books", {}):
        pass
    assert "changed" not in capsys.readouterr().err


def test_figures_are_named_by_their_path() -> None:
    nested = {"n": 2, "all": {"hr_10": 0.1, "name": "x", "flag": True}}
    assert flatten_metrics(nested, "test") == {"test/n": 2.0, "test/all/hr_10": 0.1}


def test_the_hash_of_a_folder_is_of_names_and_contents_alone(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "deep").mkdir(parents=True)
        (tmp_path / folder / "deep" / "x").write_text("1")
        (tmp_path / folder / "y").write_text("2")
    first = content_hash(tmp_path / "a")
    assert first == content_hash(tmp_path / "b")
    (tmp_path / "b" / "y").write_text("3")
    assert first != content_hash(tmp_path / "b")
    (tmp_path / "b" / "y").rename(tmp_path / "b" / "z")
    (tmp_path / "b" / "z").write_text("2")
    assert first != content_hash(tmp_path / "b")
