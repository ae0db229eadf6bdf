"""The MLflow runs of stages: what is logged, also if several stages run at once or the store is not available."""

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
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from urllib.request import urlopen

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from typer.testing import CliRunner

from tapestry.cli import app
from tapestry.core.errors import TapestryError
from tapestry.provenance.hashes import code_hash, content_hash
from tapestry.tracking import delivery
from tapestry.tracking.delivery import send_pending, sending
from tapestry.tracking.journal import Journal, locked_journal
from tapestry.tracking.names import flatten_metrics
from tapestry.tracking.runs import stage_run, trial_run
from tapestry.tracking.store import open_store, store_uri

STAGE = """
from tapestry.tracking import delivery
from tapestry.tracking.runs import stage_run
delivery.LIVE_SECONDS = 0
delivery._FINISH_SECONDS = 300  # creating the tables takes longer on a busy machine
with stage_run("ingest@Books", {"ingest.threads": 2}) as run:
    run.log_metrics({"rows": 3, "reasons": {"blank line": 1}}, "ingest")
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new store to copy: creating one takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("store")
        patch.setenv("DVC_ROOT", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_store()
        return folder / "mlflow.db"


@pytest.fixture
def stored(root: Path, store: Path) -> None:
    shutil.copy(store, root)
    open_store()  # relocates the copied store


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


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> None:
    """All stages of this process are sent while they run, as long ones are."""
    monkeypatch.setattr(delivery, "LIVE_SECONDS", 0)


def runs() -> list[Run]:
    client = MlflowClient(store_uri())
    experiment = client.get_experiment_by_name("tapestry")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_three_stages_at_once_on_a_new_store_each_log_a_run(
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
def test_a_failing_stage_logs_its_error() -> None:
    with pytest.raises(TapestryError), stage_run("sessionize", {}):
        raise TapestryError("no user is left")
    (run,) = runs()
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "TapestryError: no user is left"


@pytest.mark.usefixtures("stored")
def test_a_short_stage_leaves_its_run_to_the_last_stage(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(delivery, "open_store", lambda: pytest.fail("the store was opened"))
    with stage_run("ingest@Books", {}) as run:
        run.log_metrics({"rows": 3}, "ingest")
    monkeypatch.setattr(delivery, "open_store", open_store)
    assert runs() == []
    with sending(Journal(store_uri()), "pipeline"):
        pass
    (found,) = runs()
    assert (found.info.status, found.data.metrics["ingest/rows"]) == ("FINISHED", 3.0)
    assert not list((root / "mlflow.pending").iterdir())
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("stored")
def test_the_last_stage_waits_for_runs_of_its_pipeline_that_another_process_sends(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pipeline in ("ours", "theirs"):
        monkeypatch.setattr("tapestry.tracking.runs.pipeline_id", lambda pipeline=pipeline: pipeline)
        with stage_run("ingest@Books", {}):
            pass
    ours, theirs = sorted((root / "mlflow.pending").iterdir())
    waited: list[float] = []

    def release(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            locks.pop().close()

    # Of this module alone: threads of other tests may still wait by `time.sleep`.
    monkeypatch.setattr("tapestry.tracking.delivery.time", SimpleNamespace(sleep=release, monotonic=time.monotonic))
    locks = [ExitStack(), ExitStack()]
    for lock, folder in zip(locks, (theirs, ours), strict=True):
        assert lock.enter_context(locked_journal(folder))
    with sending(Journal(store_uri()), "ours"):
        pass
    assert len(waited) == 3
    assert list((root / "mlflow.pending").iterdir()) == [theirs]
    assert [run.data.tags["pipeline"] for run in runs()] == ["ours"]
    locks.pop().close()


@pytest.mark.usefixtures("stored", "live")
def test_sending_a_journal_again_changes_nothing(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A process may be killed after it has sent its journal and before it has removed it."""
    kept = tmp_path_factory.mktemp("kept")
    (root / "report.html").write_text("<p>")
    with stage_run("train", {"model.width": 8}) as run:
        for epoch in (1, 2):
            run.log_points({"val/hr_10": epoch / 10}, epoch)
        run.log_input(root / "report.html", "training")
        shutil.copytree(root / "mlflow.pending", kept, dirs_exist_ok=True)
    assert not list((root / "mlflow.pending").iterdir())
    client, _ = open_store()
    (before,) = runs()
    for _ in range(2):
        shutil.copytree(kept, root / "mlflow.pending", dirs_exist_ok=True)
        assert send_pending() == (1, [])
    (sent,) = runs()
    assert sent.info.run_id == before.info.run_id
    history = client.get_metric_history(sent.info.run_id, "val/hr_10")
    assert [(point.step, point.value) for point in history] == [(1, 0.1), (2, 0.2)]
    assert [file.path for file in client.list_artifacts(sent.info.run_id)] == ["packages.txt"]
    assert sent.inputs is not None
    (read,) = sent.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest, read.tags[0].value) == (
        (root / "report.html").as_posix(),
        hashlib.sha256(b"<p>").hexdigest()[:36],
        "training",
    )


EPOCHS = """
import sys
from tapestry.tracking import delivery
from tapestry.tracking.runs import stage_run
delivery.LIVE_SECONDS = 0
delivery._FINISH_SECONDS = int(sys.argv[1])
with stage_run("train", {"train.epochs": 8}) as run:
    for epoch in range(1, 9):
        run.log_points({"val/hr_10": epoch / 10}, epoch)
        if epoch == 4:
            input()
print("model saved")
"""


def training(finish_seconds: int = 60) -> subprocess.Popen[str]:
    """Start a stage of eight epochs in another process; it waits after the fourth for a line on standard input.

    Args:
        finish_seconds: how long it waits at its end for the store.
    """
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", EPOCHS, str(finish_seconds)]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=os.environ, text=True)


def resume(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Let the stage continue to its end; return what it printed to standard output and error."""
    printed, errors = process.communicate("\n", timeout=90)
    assert process.returncode == 0, errors
    return printed, errors


def wait_for_run() -> Run:
    """Return the run of the stage that is running, as soon as it has a metric."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for found in runs():
            if "val/hr_10" in found.data.metrics:
                return found
        time.sleep(0.1)
    pytest.fail("no run")


def curve(run: Run) -> list[tuple[int, float]]:
    history = MlflowClient(store_uri()).get_metric_history(run.info.run_id, "val/hr_10")
    return [(point.step, point.value) for point in history]


COMPLETE_CURVE = [(epoch, epoch / 10) for epoch in range(1, 9)]


def assert_kept_then_sent(process: subprocess.Popen[str], root: Path, reason: str) -> None:
    """Check that the stage succeeds, says in one line why metrics are kept, and `sync` sends them."""
    printed, errors = resume(process)
    assert printed == "model saved\n"
    (line,) = errors.splitlines()
    kept = f"the run continues, its metrics are kept in {root}/mlflow.pending, and `tapestry sync` sends them"
    assert re.fullmatch(f"MLflow: {reason}; {kept}", line)


@pytest.mark.usefixtures("stored")
def test_a_locked_store_loses_no_metrics_of_a_stage(root: Path) -> None:
    process = training(finish_seconds=3)
    run = wait_for_run()
    with closing(sqlite3.connect(root / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert_kept_then_sent(process, root, f"sqlite:///{root}/mlflow.db(: database is locked| doesn't respond)")
    assert runs()[0].info.status == "RUNNING"
    assert send_pending() == (1, [])
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert curve(run) == COMPLETE_CURVE


@pytest.mark.usefixtures("stored")
def test_an_experiment_that_is_deleted_during_a_stage_is_restored() -> None:
    process = training()
    client = MlflowClient(store_uri())
    client.delete_experiment(wait_for_run().info.experiment_id)
    _, errors = resume(process)
    assert "MLflow's experiment tapestry was deleted: it is restored" in errors
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert curve(run) == COMPLETE_CURVE


def test_an_unreadable_store_loses_no_metrics_of_a_stage(root: Path, store: Path) -> None:
    (root / "mlflow.db").write_bytes(b"x" * 10_000)
    assert_kept_then_sent(training(), root, f"{root}/mlflow.db: file is not a database: move it away, then run again")
    shutil.copy(store, root / "mlflow.db")
    open_store()
    assert CliRunner().invoke(app, ["sync"]).output == "1 run sent\n"
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert curve(run) == COMPLETE_CURVE


@contextmanager
def server(root: Path, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{root}/mlflow.db", "--artifacts-destination", str(root / "served")]
    with (root / "server.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 180  # its start takes long on a busy machine
        while time.monotonic() < deadline:
            with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health"):
                break
            time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.usefixtures("stored")
def test_a_server_that_stops_loses_no_metrics_of_a_stage(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with server(root, port):
        process = training()
        wait_for_run()
    reason = f".*http://127.0.0.1:{port}.*"
    assert_kept_then_sent(process, root, reason)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (folder,) = (root / "mlflow.pending").iterdir()
    assert send_pending() == (
        0,
        [f"{folder.name}: it is for http://127.0.0.1:{port}; set MLFLOW_TRACKING_URI to it"],
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with server(root, port):
        assert send_pending() == (1, [])
        (run,) = runs()
        assert run.info.status == "FINISHED"
        assert curve(run) == COMPLETE_CURVE


@pytest.mark.usefixtures("stored", "live")
def test_a_trial_of_a_study_has_a_run_that_is_of_no_stage_of_the_pipeline(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = root / "studies/tuning"
    (folder / "data/b").mkdir(parents=True)
    (folder / "data/b/sequences").write_text("1")
    (folder / "dvc.yaml").write_text(
        "stages: {short: {matrix: {data: [a, b], trial: [1, 2]}, deps: ['data/${item.data}/sequences']}}"
    )
    (root / "src").mkdir()
    (root / "src/code.py").write_text("1")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_STAGE", "studies/tuning/dvc.yaml:short@b-2")
    with trial_run({"model.width": 8}) as run:
        run.log_points({"val/ndcg_10": 0.5}, 1)
    (found,) = runs()
    tags = found.data.tags
    assert found.info.run_name.startswith("studies/tuning short@b-2 · ")
    assert (tags["study"], tags["trial"]) == ("studies/tuning", "short@b-2")
    assert json.loads(tags["dvc_inputs"]) == {"data/b/sequences": hashlib.md5(b"1").hexdigest()}
    assert tags["code_hash"] == code_hash(root)
    assert not {"stage", "pipeline"} & tags.keys()
    assert (found.data.params, found.data.metrics["val/ndcg_10"]) == ({"model.width": "8"}, 0.5)


@pytest.mark.usefixtures("stored", "live")
def test_the_next_stage_ends_the_run_of_a_killed_one(root: Path) -> None:
    process = training()
    wait_for_run()
    process.kill()
    process.communicate()
    (run,) = runs()
    assert run.info.status == "RUNNING"
    with stage_run("sessionize", {}):
        pass
    by_stage = {run.data.tags["stage"]: run for run in runs()}
    killed = by_stage["train"]
    assert killed.info.run_id == run.info.run_id
    assert killed.info.status == "KILLED"
    assert killed.data.tags["error"] == "the process was killed"
    assert killed.info.end_time <= by_stage["sessionize"].info.start_time
    assert curve(killed) == COMPLETE_CURVE[:4]
    assert by_stage["sessionize"].info.status == "FINISHED"
    assert not list((root / "mlflow.pending").iterdir())


@pytest.mark.usefixtures("stored", "live")
def test_a_damaged_journal_does_not_delay_others(root: Path) -> None:
    damaged = root / "mlflow.pending/1-x"
    damaged.mkdir(parents=True)
    (damaged / "events.jsonl").write_text("no JSON\n")
    with stage_run("sessionize", {}):
        pass
    (run,) = runs()
    assert run.info.status == "FINISHED"
    assert list((root / "mlflow.pending").iterdir()) == [damaged]
    done = CliRunner().invoke(app, ["sync"])
    assert done.exit_code == 1
    assert f"sync: error: not sent: {damaged}: damaged (" in done.output


@pytest.mark.usefixtures("stored")
def test_the_journal_of_a_running_stage_is_not_sent_by_others(root: Path) -> None:
    process = training()
    wait_for_run()
    assert send_pending() == (0, [])
    resume(process)
    (run,) = runs()
    assert (run.info.status, curve(run)) == ("FINISHED", COMPLETE_CURVE)


def test_a_checkout_that_is_not_writable_does_not_stop_a_stage(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "mlflow.pending").write_text("a file where the folder should be")
    with stage_run("train", {"model.width": 8}) as run:
        run.log_points({"val/hr_10": 0.5}, 1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"MLflow: {root}/mlflow.pending/")
    assert line.endswith(": Not a directory: metrics of this stage may be missing there")


def test_an_input_that_is_edited_during_a_stage_is_reported(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stored: None, live: None
) -> None:
    monkeypatch.chdir(root)
    (root / "dvc.yaml").write_text(
        "stages: {ingest: {matrix: {domain: [Books]}, deps: ['raw/${item.domain}', code.py, gone.py]}}"
    )
    (root / "raw/Books").mkdir(parents=True)
    (root / "raw/Books/a.json").write_text("{}")
    (root / "code.py").write_text("1")
    with stage_run("ingest@Books", {}):
        (root / "code.py").write_text("22")
    errors = capsys.readouterr().err
    assert [line for line in errors.splitlines() if not line.startswith("MLflow: ")] == [
        "ingest@Books: code.py changed while the stage ran: DVC records the new content, the stage read the old one; "
        "run `dvc repro --single-item --force ingest@Books`"
    ]
    (run,) = runs()
    files = json.dumps([{"md5": hashlib.md5(b"{}").hexdigest(), "relpath": "a.json"}])
    assert json.loads(run.data.tags["dvc_inputs"]) == {
        "raw/Books": hashlib.md5(files.encode()).hexdigest() + ".dir",
        "code.py": hashlib.md5(b"1").hexdigest(),
    }
    assert json.loads(run.data.tags["inputs_changed"]) == ["code.py"]
    with stage_run("ingest@Books", {}):
        pass
    assert "changed" not in capsys.readouterr().err


def test_metrics_are_named_by_their_path() -> None:
    nested = {"n": 2, "all": {"hr_10": 0.1, "name": "x", "flag": True}}
    assert flatten_metrics(nested, "test") == {"test/n": 2.0, "test/all/hr_10": 0.1}


def test_the_hash_of_a_folder_depends_only_on_names_and_contents(tmp_path: Path) -> None:
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
