"""Examine what a checkout needs: git, Python packages, valid parameters and a store that can be opened."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tapestry.core.errors import TapestryError, one_line
from tapestry.doctor.finding import Finding, try_git
from tapestry.parameters import load_parameters
from tapestry.tracking.sqlite import connect, table_names

_PACKAGES = ("dvc", "duckdb", "mlflow", "ruamel.yaml", "torch")  # each stage needs at least one of them


def repository(root: Path) -> Iterator[Finding]:
    """Check for git, a repository, which DVC needs, and a commit, which experiments need."""
    if shutil.which("git") is None:
        yield Finding("git isn't installed, or isn't on PATH", "install it: DVC needs it")
    elif try_git(root, "rev-parse", "--git-dir") is None:
        yield Finding(
            f"{root} is in no git repository, which DVC needs (a ZIP from GitHub has none)",
            "`git init && git add --all && git commit -m start`, or clone the repository instead",
        )
    elif try_git(root, "rev-parse", "HEAD") is None:
        yield Finding(
            "the git repository has no commit, on which `dvc exp run` needs to build",
            "`git add --all && git commit -m start`",
        )


def python_environment(root: Path) -> Iterator[Finding]:
    """Check the Python that starts the stages (see stages/python)."""
    mend = f"`make install` once, then `source {root}/.venv/bin/activate` in this shell, or another environment's"
    python = shutil.which("python") or shutil.which(root / ".venv/bin/python")
    if python is None:
        yield Finding("no `python` on PATH and no .venv: nothing can start the stages", mend)
        return
    code = f"import importlib.util as u; print(*(n for n in {_PACKAGES} if u.find_spec(n.partition('.')[0]) is None))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=root)
    missing = done.stdout.split()
    if done.returncode != 0:
        yield Finding(f"{python}, which starts the stages, doesn't run: {one_line(done.stderr.strip())}", mend)
    elif missing:
        yield Finding(f"{python}, which starts the stages, has no package {', '.join(missing)}", mend)


def parameters(root: Path) -> Iterator[Finding]:
    """Check params.yaml as the stages read it; only the first error is reported."""
    try:
        load_parameters(root / "params.yaml")
    except TapestryError as error:
        yield Finding(
            str(error).replace(f"{root}/", ""),
            "correct it; or, if a failed `dvc exp run -S` left its value there, undo all uncommitted changes: "
            "`touch params.yaml && git restore params.yaml`",
        )


def store(root: Path) -> Iterator[Finding]:
    """Check that mlflow.db is complete: a kill during its creation leaves an unusable file. A locked file passes."""
    path = root / "mlflow.db"
    if not path.is_file() or path.stat().st_size == 0:
        return
    try:
        with connect(path) as connection:
            tables = table_names(connection)
    except sqlite3.OperationalError:
        return  # locked or not readable: its state is unknown
    except sqlite3.DatabaseError as error:
        yield Finding(f"mlflow.db: {error}", "move it away; the next run creates a new one")
        return
    if "runs" not in tables:
        yield Finding("mlflow.db: incomplete, without a run", "removed; the next run creates a new one", path.unlink)
