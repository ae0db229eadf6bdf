"""What a checkout needs around it: git, packages, parameters that hold, a store that opens."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tapestry.core.errors import TapestryError, one_line
from tapestry.doctor.finding import Finding, try_git
from tapestry.parameters import load_parameters

_PACKAGES = ("dvc", "duckdb", "mlflow", "ruamel.yaml", "torch")  # one of each kind of stage


def repository(root: Path) -> Iterator[Finding]:
    """DVC needs git, a repository, and for experiments a commit."""
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


def environment(root: Path) -> Iterator[Finding]:
    """The Python that starts the stages (see stages/python)."""
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
    """params.yaml is read as the stages read it; the first error is found."""
    try:
        load_parameters(root / "params.yaml")
    except TapestryError as error:
        yield Finding(
            str(error).replace(f"{root}/", ""),
            "correct it; or, as a failed `dvc exp run -S` leaves its value there, take back all that isn't committed: "
            "`touch params.yaml && git restore params.yaml`",
        )


def store(root: Path) -> Iterator[Finding]:
    """A kill while MLflow made mlflow.db leaves a file that is no store; one that is locked is taken for sound."""
    path = root / "mlflow.db"
    if not path.is_file() or path.stat().st_size == 0:
        return
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.OperationalError:
        return  # locked, or not to be read: it isn't known
    except sqlite3.DatabaseError as error:
        yield Finding(f"mlflow.db: {error}", "move it away; the next run makes a new one")
        return
    if "runs" not in tables:
        yield Finding("mlflow.db: half-made, without a run in it", "removed; the next run makes a new one", path.unlink)
