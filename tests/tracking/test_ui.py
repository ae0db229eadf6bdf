"""`tapestry ui`: the address that it prints, the hosts that it accepts, and that all its processes end with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

import psutil
import pytest
from checkouts import environment
from typer.testing import CliRunner
from ui_server import UI, free_port

from tapestry.cli import app
from tapestry.tracking.journal import Journal
from tapestry.tracking.store import open_store, shown_uri


@pytest.fixture
def sub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in a checkout whose store, at a relative address, has another experiment before Tapestry's."""
    folder = tmp_path / "src"
    for path in (folder, tmp_path / ".dvc"):
        path.mkdir()
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    client, _ = open_store()
    client.create_experiment("other")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def pending(sub_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The journal of a stage that has left its run to be sent later."""
    monkeypatch.chdir(sub_folder.parent)
    journal = Journal(shown_uri())
    journal.close()
    assert journal.folder is not None
    monkeypatch.chdir(sub_folder)
    return journal.folder


@contextmanager
def served(folder: Path, port: int) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    variables = environment() | {"MLFLOW_TRACKING_URI": "sqlite:///runs.db"}
    process = subprocess.Popen([*UI, str(port)], cwd=folder, env=variables, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, process.stdout
    finally:
        process.kill()
        process.wait()


def status(port: int, host: str) -> int:
    """Return the HTTP status of a search for experiments, with `host` as the Host header."""
    url = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search?max_results=1"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Host": host})) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_server_ends_with_its_command(sub_folder: Path, number: signal.Signals, pending: Path) -> None:
    port = free_port()
    with served(sub_folder, port) as (process, output):
        address = f"http://127.0.0.1:{port}/#/experiments/1?workflowType=machine_learning"
        assert output.readline().strip() == address
        assert not pending.exists()  # sent before the server starts
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 2
        assert not any("huey" in " ".join(each.cmdline()) for each in started)
        assert [status(port, f"{host}:{port}") for host in ("localhost", "127.0.0.1", "attacker.example")] == [
            200,
            200,
            403,
        ]
        process.send_signal(number)
        assert process.wait(30) == (-9 if number == signal.SIGKILL else 0)
        assert psutil.wait_procs(started, timeout=30)[1] == []
    assert free(port)


def free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_port_in_use_is_reported_in_one_line(sub_folder: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["ui", "--port", str(port)])
    assert result.exit_code == 1
    assert result.output == (
        f"ui: error: port {port} on 127.0.0.1 is not available (Address already in use): end what uses it, or choose "
        "another by --port\n"
    )


def test_outside_a_checkout_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["ui"])
    assert (result.exit_code, os.listdir(tmp_path)) == (1, [])
    assert "is in no checkout of Tapestry" in result.output
