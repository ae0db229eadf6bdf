"""Reproduce a commit from raw files in a temporary clone, without the caches of the user's checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ruamel.yaml import YAML

from tapestry.core.cpu import PORTABLE
from tapestry.core.errors import TapestryError, one_line
from tapestry.parameters import load_parameters
from tapestry.provenance.git import git, git_message
from tapestry.tracking.store import sqlite_uri

_OURS = ("DVC_", "MLFLOW_", "GIT_", "PYTHONPATH")  # variables that would make a stage use another checkout or store
_RUNNING = "Running stage '"


@contextmanager
def cloned(root: Path, commit: str) -> Iterator[Path]:
    """Yield a new checkout of a commit of the repository, with its own DVC cache.

    Raises:
        TapestryError: git can't check the commit out.
    """
    with tempfile.TemporaryDirectory(prefix="tapestry-audit-") as folder:
        checkout = Path(folder, "checkout")
        try:
            # A shared clone copies no objects, and has commits that no branch leads to.
            git(root, "clone", "--quiet", "--shared", "--no-checkout", str(root), str(checkout))
            git(checkout, "checkout", "--quiet", "--detach", commit)
        except (OSError, subprocess.CalledProcessError) as error:
            raise TapestryError(
                f"commit {commit} can't be checked out: {git_message(error)}; "
                "run `git fetch` if another repository has it"
            ) from error
        (checkout / ".dvc/config.local").write_text(
            f"[cache]\n    dir = {folder}/cache\n[core]\n    site_cache_dir = {folder}/site\n", encoding="utf-8"
        )
        yield checkout


def provide_raw(root: Path, checkout: Path) -> None:
    """Give a clone access to what git doesn't track: the user's raw files, downloads and their checksums."""
    source = load_parameters(checkout / "params.yaml").source
    if source.release == "files" and source.path is not None and not (checkout / source.path).exists():
        yaml = YAML()
        values = yaml.load(checkout / "params.yaml")
        values["source"]["path"] = str((root / source.path).resolve())
        yaml.dump(values, checkout / "params.yaml")
    if (root / "downloads").is_dir():
        (checkout / "downloads").symlink_to((root / "downloads").resolve())
    if (root / "checksums.json").is_file() and not (checkout / "checksums.json").exists():
        shutil.copy(root / "checksums.json", checkout)


def reproduce(checkout: Path, arithmetic: str, stages: int) -> str | None:
    """Run `dvc repro` in a clone, with its own code, cache and store; print the progress to standard error.

    Args:
        arithmetic: the tag cpu_arithmetic of the run to reproduce.
        stages: the number of stages, for the progress.

    Returns:
        None, or DVC's error message.
    """
    for made in (checkout / "dvc.lock", *(checkout / "metrics").glob("*")):
        made.unlink(missing_ok=True)  # otherwise DVC would skip the stages whose outputs are in git
    command = [sys.executable, "-m", "dvc", "repro", "--no-run-cache"]
    lines: list[str] = []
    count = 0
    with subprocess.Popen(
        command,
        cwd=checkout,
        env=_environment(checkout, arithmetic),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.strip())
            if line.startswith(_RUNNING):
                count += 1
                stage = line.removeprefix(_RUNNING).partition("'")[0]
                print(f"rerun: {stage} ({count} of {stages})", file=sys.stderr, flush=True)
    if process.returncode == 0:
        return None
    errors = [line for line in lines if "error: " in line.lower()]
    return one_line((errors or lines or ["DVC printed nothing"])[0], 500)


def _environment(checkout: Path, arithmetic: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    environment["MLFLOW_TRACKING_URI"] = sqlite_uri(checkout.parent / "mlflow.db")
    return environment | arithmetic_variables(arithmetic)


def arithmetic_variables(arithmetic: str) -> dict[str, str]:
    """Parse the environment variables of a run's tag, such as `AVX2 MKL_CBWR=COMPATIBLE …`."""
    pairs = (word.partition("=") for word in arithmetic.split())
    return {name: value for name, _, value in pairs if name in PORTABLE and value != "unset"}
