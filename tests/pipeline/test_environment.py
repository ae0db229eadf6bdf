"""Stages that start without a Python on PATH, as in a queue's worker, a cron job or with `.venv/bin/dvc`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkouts import environment, make_checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "My Project")


def run_without_python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `dvc …` with only git, mkdir and a shell on PATH."""
    tools = folder.parent / "tools"
    tools.mkdir()
    for name in ("git", "sh", "mkdir"):
        (tools / name).symlink_to(str(shutil.which(name)))
    variables = environment() | {"PATH": str(tools)}
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [["repro"], ["exp", "run", "--temp"]])
def test_the_main_checkouts_environment_is_found(checkout: Path, arguments: list[str]) -> None:
    (checkout / ".venv").symlink_to(sys.prefix)
    done = run_without_python(checkout, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Running stage 'report'" in done.stdout


@pytest.mark.parametrize("arguments", [["repro"], ["exp", "run", "--temp"]])
def test_without_an_environment_the_fix_is_named(checkout: Path, arguments: list[str]) -> None:
    done = run_without_python(checkout, *arguments)
    assert done.returncode != 0
    assert (
        f"source: error: no `python` on PATH, and no .venv in {checkout}: run `make install` there, or "
        "activate another environment that has Tapestry's packages"
    ) in done.stderr.splitlines()
