"""Small checkouts with the working tree's dvc.yaml, for tests of the commands around the stages."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tapestry.core.cpu import PORTABLE

ROOT = Path(__file__).parents[1]
DOMAINS = ["Books", "Toys"]

# Replaces each stage but `source`: its outputs depend on the stage's dependencies and parameters in dvc.yaml, except
# threads and memory limits, which don't affect the real stages' outputs either.
STAND_IN = """
import hashlib
import re
from pathlib import Path
from ruamel.yaml import YAML

def load(name):
    return YAML(typ="safe").load(Path(name).read_text())

def files(path):
    return sorted(p for p in [path, *path.rglob("*")] if p.is_file() and p.suffix != ".pyc")

def filled(name, item):
    return re.sub("[$]{item[.][a-z]+}", item, name)

def main(item=""):
    stage = Path(__file__).stem
    spec, values = load("dvc.yaml")["stages"][stage], load("params.yaml")
    digest = hashlib.sha256(stage.encode())
    for name in spec.get("params", []):
        section, _, key = name.partition(".")
        for each in [key] if key else values[section]:
            if each not in ("threads", "memory_limit"):
                digest.update(f"{section}.{each}={values[section][each]}".encode())
    for name in spec.get("deps", []):
        for file in files(Path(filled(name, item))):
            digest.update(file.read_bytes())
    for out in [*spec.get("outs", []), *spec.get("metrics", []), *spec.get("plots", [])]:
        path = Path(filled(out if isinstance(out, str) else next(iter(out)), item))
        folder = not path.suffix
        (path if folder else path.parent).mkdir(parents=True, exist_ok=True)
        (path / "part" if folder else path).write_text('{"x": "' + digest.hexdigest() + '"}')
"""


def make_checkout(folder: Path, stand_ins: bool = True) -> Path:
    """A committed checkout of the working tree's code, with two domains; its stages stand-ins, but for `source`."""
    for name in ("src", "stages", "baselines"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "params.yaml", "Makefile"):
        shutil.copy(ROOT / name, folder)
    copy_studies(folder)
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc")
    set_parameters(folder, {"source.domains": DOMAINS, "synthetic.users": 20, "synthetic.items": 30})
    for script in (folder / "stages").glob("*.py"):
        if stand_ins and script.stem not in ("run", "source"):
            script.write_text(STAND_IN, encoding="utf-8")
    make_repository(folder)
    return folder


def copy_studies(folder: Path) -> None:
    """Copy the pages and pictures of studies, which the report reads."""
    for picture in ROOT.glob("studies/*/picture.svg"):
        study = folder / picture.parent.relative_to(ROOT)
        study.mkdir(parents=True)
        for name in (picture.name, "README.md"):
            shutil.copy(picture.parent / name, study)


def make_repository(folder: Path) -> None:
    """Create a git repository with all files of a folder in one commit."""
    run_in(folder, "git", "init", "--quiet")
    run_in(folder, "git", "config", "user.name", "t")
    run_in(folder, "git", "config", "user.email", "t@t")
    commit(folder)


def commit(folder: Path) -> None:
    run_in(folder, "git", "add", "--all")
    run_in(folder, "git", "commit", "--quiet", "--allow-empty", "-m", "all")


def set_parameters(folder: Path, values: Mapping[str, Any]) -> None:
    yaml = YAML()
    held = yaml.load(folder / "params.yaml")
    for name, value in values.items():
        section, key = name.split(".")
        held[section][key] = value
    yaml.dump(held, folder / "params.yaml")


def environment() -> dict[str, str]:
    """Return environment variables with this interpreter first on PATH, without those of DVC, MLflow and `PORTABLE`."""
    unset = ("DVC_", "MLFLOW_", *PORTABLE)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    kept["PYTHONPATH"] = str(ROOT / "src")
    return kept


def run_in(folder: Path, *command: str) -> str:
    """Run a command that must succeed, and return its output."""
    done = completed(command, folder)
    return done.stdout + done.stderr


def completed(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that must succeed, and return its result."""
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def entered_copy(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy a checkout, and make the copy the working directory."""
    folder = shutil.copytree(made, tmp_path / "checkout", symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("PATH", environment()["PATH"])
    return folder


def snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """Return each file's modification time and hash, except DVC's own state and compiled code."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*")
        if path.is_file() and ".dvc/tmp" not in path.as_posix() and "__pycache__" not in path.parts
    }
