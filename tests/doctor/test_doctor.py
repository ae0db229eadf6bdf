"""`tapestry doctor`: leftovers of killed runs are found and removed; what a living process uses stays unchanged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from checkouts import commit, entered_copy, environment, make_checkout, run_in, snapshot
from typer.testing import CliRunner

from tapestry.cli import app


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_checkout(tmp_path_factory.mktemp("doctor") / "checkout")
    run_in(folder, "dvc", "repro")
    commit(folder)
    return folder


@pytest.fixture
def checkout(reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return entered_copy(reproduced, tmp_path, monkeypatch)


def doctor(*options: str) -> tuple[int, list[str]]:
    result = CliRunner().invoke(app, ["doctor", *options])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output.splitlines()


def test_nothing_is_wrong_with_a_good_checkout(checkout: Path) -> None:
    before = snapshot(checkout)
    assert doctor("--fix") == (0, ["nothing is wrong"])
    assert snapshot(checkout) == before


def overwrite(name: str, content: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "name", "fixed"),
    [
        (overwrite(".dvc/tmp/rwlock", ""), ".dvc/tmp/rwlock", "removed"),
        (overwrite(".dvc/tmp/rwlock", '{"read": {"a": [{"pi'), ".dvc/tmp/rwlock", "removed"),
        (overwrite(".dvc/tmp/rwlock", "[]"), ".dvc/tmp/rwlock", "removed"),
        (overwrite("dvc.lock", ""), "dvc.lock", "restored from git; "),
        (overwrite("dvc.lock", "schema: '2.0'\nstages:\n  train:\n    cm"), "dvc.lock", "restored from git; "),
    ],
)
def test_a_truncated_file_stops_dvc_and_is_fixed(
    checkout: Path, spoil: Callable[[Path], None], name: str, fixed: str
) -> None:
    spoil(checkout)
    assert subprocess.run(["dvc", "repro"], env=environment(), capture_output=True).returncode != 0
    spoil(checkout)
    code, lines = doctor()
    assert (code, lines[0]) == (1, f"{name}: truncated by a kill; DVC can't read it")
    assert lines[1].startswith(f"  with --fix: {fixed}")
    code, lines = doctor("--fix")
    assert (code, lines[1].startswith(f"  mended: {fixed}")) == (0, True)
    assert doctor() == (0, ["nothing is wrong"])
    run_in(checkout, "dvc", "repro")
    assert run_in(checkout, "git", "status", "--short") == ""


def test_a_truncated_list_of_experiments_readers_is_fixed(checkout: Path) -> None:
    overwrite(".dvc/tmp/exps/rwlock", "")(checkout)
    assert doctor("--fix")[1][1] == "  mended: removed"
    run_in(checkout, "dvc", "exp", "run")


def test_merge_conflicts_in_dvc_lock_are_for_the_user_to_resolve(checkout: Path) -> None:
    text = "<<<<<<< HEAD\n" + (checkout / "dvc.lock").read_text()
    (checkout / "dvc.lock").write_text(text)
    code, lines = doctor("--fix")
    assert (code, lines[0]) == (1, "dvc.lock: contains conflicts of a merge")
    assert (checkout / "dvc.lock").read_text() == text


@contextmanager
def living(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process; kill it and its child processes after the block."""
    process = subprocess.Popen(
        command, env=environment(), start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_entries_of_dead_processes_are_removed_and_of_living_ones_stay(checkout: Path, tmp_path: Path) -> None:
    script = tmp_path / "dvc"  # the doctor recognises DVC by its command line
    script.write_text("import time; time.sleep(600)")
    with living(sys.executable, str(script), "repro") as dvc, living("sleep", "600") as other:
        gone = subprocess.Popen(["true"])
        gone.wait()
        entry = {process.pid: {"pid": process.pid, "cmd": "/bin/dvc repro"} for process in (dvc, other, gone)}
        content = {
            "write": {"/a": entry[gone.pid], "/b": entry[dvc.pid]},
            "read": {"/c": [entry[other.pid], entry[dvc.pid]], "/d": [entry[other.pid]]},
        }
        (checkout / ".dvc/tmp/rwlock").write_text(json.dumps(content))
        expected = [".dvc/tmp/rwlock: entries of processes that have ended (3)", "  mended: removed"]
        assert doctor("--fix")[1][:2] == expected
        kept = json.loads((checkout / ".dvc/tmp/rwlock").read_text())
        assert kept == {"write": {"/b": entry[dvc.pid]}, "read": {"/c": [entry[dvc.pid]]}}


HOLD = """
import sys, time
from pathlib import Path
from tapestry.core.atomic import temporary_folder
with temporary_folder(Path(sys.argv[1])):
    time.sleep(600)
"""


def test_partial_folders_of_killed_writers_are_removed_and_a_living_writers_stays(checkout: Path) -> None:
    leftovers = [checkout / name for name in ("models/.x.0123abcd.partial", ".mlflow.db.abcd_123.partial")]
    for folder in leftovers:
        folder.mkdir()
        (folder / "x").touch()
    with living(sys.executable, "-c", HOLD, str(checkout / "data/sequences")):
        wait_for(lambda: list((checkout / "data").glob("*.partial")))
        time.sleep(0.5)  # until the writer has locked it
        assert doctor()[0] == 0  # they stop no run
        code, lines = doctor("--fix")
        assert code == 0
        assert sorted(lines[::2]) == sorted(f"{f.relative_to(checkout)}: left by a killed process" for f in leftovers)
        assert not any(folder.exists() for folder in leftovers)
        assert list((checkout / "data").glob(".sequences.*.partial"))


@pytest.fixture
def started(checkout: Path, tmp_path: Path) -> Callable[[], bool]:
    """Make the stage `train` sleep; return a function that says whether it has started since the last call."""
    marker = tmp_path / "started"
    (checkout / "stages/train.py").write_text(f"import time\nopen({str(marker)!r}, 'w')\ntime.sleep(600)\n")
    commit(checkout)

    def has_started() -> bool:
        exists = marker.exists()
        marker.unlink(missing_ok=True)
        return exists

    return has_started


def killed_in_train(started: Callable[[], bool], *command: str) -> None:
    with living(*command):
        wait_for(started)


def test_while_dvc_runs_files_that_it_may_use_stay_unchanged(checkout: Path, started: Callable[[], bool]) -> None:
    overwrite(".dvc/tmp/exps/rwlock", "")(checkout)
    (checkout / ".dvc/tmp/exps/tmp01234567").mkdir()
    with living("dvc", "repro") as process:
        wait_for(started)
        held = (checkout / ".dvc/tmp/rwlock").read_text()
        assert doctor("--fix") == (
            0,
            [
                f"DVC is running here (PID {process.pid}: dvc repro)",
                "  mend: run this again when it has ended: files that it may be using aren't examined",
            ],
        )
        assert (checkout / ".dvc/tmp/rwlock").read_text() == held
        assert json.loads(held)["write"]
        assert (checkout / ".dvc/tmp/exps/tmp01234567").is_dir()
    assert len(doctor("--fix")[1]) == 6
    assert doctor() == (0, ["nothing is wrong"])


def test_a_head_detached_by_a_killed_experiment_is_attached_to_its_branch(
    checkout: Path, started: Callable[[], bool]
) -> None:
    branch = run_in(checkout, "git", "symbolic-ref", "HEAD")
    with (checkout / "params.yaml").open("a") as file:
        file.write("# mine\n")
    killed_in_train(started, "dvc", "exp", "run", "-S", "train.epochs=3")
    assert subprocess.run(["git", "symbolic-ref", "--quiet", "HEAD"], capture_output=True).returncode == 1
    files = {name: content for name, content in snapshot(checkout).items() if not name.startswith(".git/")}
    code, lines = doctor("--fix")
    name = branch.strip().removeprefix("refs/heads/")
    assert code == 0
    assert lines[-2:] == [
        "git's HEAD is detached, as a killed `dvc exp run` leaves it",
        f"  mended: attached to branch {name}, no file is changed",
    ]
    assert run_in(checkout, "git", "symbolic-ref", "HEAD") == branch
    assert {name: content for name, content in snapshot(checkout).items() if not name.startswith(".git/")} == files
    assert doctor() == (0, ["nothing is wrong"])
    assert "epochs: 3" in (checkout / "params.yaml").read_text()
    assert "# mine" in (checkout / "params.yaml").read_text()


def test_a_kill_while_dvc_has_stashed_changes_is_reported_with_the_commands_that_restore_them(checkout: Path) -> None:
    """DVC stashes the user's changes for a second while it creates an experiment from the working tree."""
    head, branch = (
        run_in(checkout, "git", "rev-parse", *name).strip() for name in (["HEAD"], ["--abbrev-ref", "HEAD"])
    )
    before = (checkout / "params.yaml").read_text()
    (checkout / "params.yaml").write_text(before + "# mine\n")
    run_in(checkout, "git", "stash")
    run_in(checkout, "git", "checkout", "--quiet", head)
    mend = f"`git switch {branch}`, then `git stash pop`: DVC had stashed your changes"
    expected = ["git's HEAD is detached, as a killed `dvc exp run` leaves it", f"  mend: {mend}"]
    assert doctor("--fix") == (0, expected)
    run_in(checkout, "git", "switch", branch)
    run_in(checkout, "git", "stash", "pop")
    assert (checkout / "params.yaml").read_text() == before + "# mine\n"
    assert doctor() == (0, ["nothing is wrong"])


def test_a_head_that_the_user_detached_stays_detached(checkout: Path) -> None:
    run_in(checkout, "git", "checkout", "--quiet", "--detach")
    assert doctor("--fix") == (0, ["nothing is wrong"])
    assert subprocess.run(["git", "symbolic-ref", "--quiet", "HEAD"], capture_output=True).returncode == 1


def test_a_killed_temporary_experiment_no_longer_counts_as_running(checkout: Path, started: Callable[[], bool]) -> None:
    killed_in_train(started, "dvc", "exp", "run", "--temp", "--name", "narrow", "-S", "train.epochs=3")
    assert "Running" in run_in(checkout, "dvc", "exp", "show", "--csv")
    code, lines = doctor("--fix")
    assert code == 0
    assert any(line.endswith(": left by the experiment narrow, which was killed") for line in lines)
    assert "narrow" not in run_in(checkout, "dvc", "exp", "show", "--csv")
    assert not list((checkout / ".dvc/tmp/exps").rglob("tmp*"))
    assert doctor() == (0, ["nothing is wrong"])


def test_a_queued_task_whose_worker_was_killed_counts_as_failed(
    checkout: Path, started: Callable[[], bool], tmp_path: Path
) -> None:
    run_in(checkout, "dvc", "exp", "run", "--queue", "--name", "narrow", "-S", "train.epochs=3")
    subprocess.run(["dvc", "queue", "start"], env=environment(), stdout=subprocess.DEVNULL, check=True)
    wait_for(started)
    kill_all_in(checkout)
    assert "Running" in run_in(checkout, "dvc", "queue", "status")
    code, lines = doctor("--fix")
    assert code == 0
    assert any(line.endswith(": left by the experiment narrow, which was killed") for line in lines)
    assert "Failed" in run_in(checkout, "dvc", "queue", "status")
    assert "Running stage 'train'" in run_in(checkout, "dvc", "queue", "logs", "narrow")
    assert doctor() == (0, ["nothing is wrong"])


def kill_all_in(folder: Path) -> None:
    """Kill the processes that run in a test's checkout: the queue's workers aren't in their parent's process group."""
    import psutil

    for process in psutil.process_iter(["pid"]):
        try:
            inside = process.pid != os.getpid() and Path(process.cwd()).is_relative_to(folder)
            if inside:
                process.kill()
                process.wait(10)
        except psutil.Error:
            pass


def incomplete_store(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        connection.execute("CREATE TABLE experiments (name TEXT)")


def test_an_incomplete_store_is_removed_and_any_other_stays(checkout: Path) -> None:
    incomplete_store(checkout)
    assert doctor("--fix") == (
        0,
        ["mlflow.db: incomplete, without a run", "  mended: removed; the next run creates a new one"],
    )
    assert not (checkout / "mlflow.db").exists()
    (checkout / "mlflow.db").write_bytes(b"x" * 5000)
    assert doctor("--fix") == (
        1,
        ["mlflow.db: file is not a database", "  mend: move it away; the next run creates a new one"],
    )
    (checkout / "mlflow.db").unlink()
    with closing(sqlite3.connect(checkout / "mlflow.db")) as connection:
        connection.execute("CREATE TABLE runs (name TEXT)")
    assert doctor("--fix") == (0, ["nothing is wrong"])


def without_git(folder: Path) -> None:
    shutil.rmtree(folder / ".git")


def without_commit(folder: Path) -> None:
    shutil.rmtree(folder / ".git")
    run_in(folder, "git", "init", "--quiet")


def bad_parameter(folder: Path) -> None:
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("patience: 12", "patience: x"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_git, "{root} is in no git repository, which DVC needs (a ZIP from GitHub has none)"),
        (without_commit, "the git repository has no commit, on which `dvc exp run` needs to build"),
        (bad_parameter, "params.yaml: train.patience: expected a whole number, got 'x'"),
    ],
)
def test_a_problem_that_only_the_user_can_fix_is_reported(
    checkout: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(checkout)
    code, lines = doctor("--fix")
    assert (code, lines[0]) == (1, message.format(root=checkout))
    assert lines[1].startswith("  mend: ")


def test_a_shell_without_the_python_environment_is_reported(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "git").symlink_to(str(shutil.which("git")))
    monkeypatch.setenv("PATH", str(tools))
    code, lines = doctor()
    assert (code, lines[0]) == (1, "no `python` on PATH and no .venv: nothing can start the stages")
    assert f"`source {checkout}/.venv/bin/activate`" in lines[1]
    (checkout / ".venv").symlink_to(sys.prefix)
    assert doctor() == (0, ["nothing is wrong"])
    (tools / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    (tools / "python").chmod(0o755)
    code, lines = doctor()
    missing = f"{tools}/python, which starts the stages, has no package dvc, duckdb, mlflow, ruamel.yaml, torch"
    assert (code, lines[0]) == (1, missing)
