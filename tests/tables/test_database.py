"""DuckDB spills to a folder in TMPDIR, which is removed even after a killed process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tapestry.tables.database import connect

SPILLER = """
import sys
from tapestry.tables.database import connect
with connect("150MB", 1) as connection:
    connection.execute("CREATE TABLE t AS SELECT random() AS a FROM range(100000000)")
"""


@pytest.fixture
def spills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that TMPDIR names, for this process and its child processes."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def spilled(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_connect_removes_the_spilled_files_of_killed_processes_only(spills: Path) -> None:
    runs = [subprocess.Popen([sys.executable, "-c", SPILLER]) for _ in range(2)]
    deadline = time.monotonic() + 60
    while not (len(folders := list(spills.iterdir())) == 2 and all(spilled(folder) for folder in folders)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(runs[0].pid, signal.SIGKILL)
    runs[0].wait()
    os.kill(runs[1].pid, signal.SIGSTOP)
    with connect("150MB", 1):
        assert len(list(spills.iterdir())) == 2  # of the stopped process and of this one
    (remaining,) = spills.iterdir()
    assert spilled(remaining) > 0
    os.kill(runs[1].pid, signal.SIGKILL)
    runs[1].wait()
    with connect("150MB", 1):
        assert len(list(spills.iterdir())) == 1
    assert list(spills.iterdir()) == []
