"""A stage runs the code of its own checkout: not the main checkout's current code, and not an installed package's."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from checkouts import ROOT, environment

CHANGED = "src/tapestry/source/synthetic.py"
OUTPUT = "data/raw/Books/Books.json.gz"
TINY = {"users: 4000": "users: 20", "items: 500": "items: 10", "interests: 20": "interests: 2"}
DOMAINS = "domains: [Books, Clothing_Shoes_and_Jewelry, Sports_and_Outdoors, Toys_and_Games, Video_Games]"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the working tree with a tiny simulation; the tests run only its stage `fetch`."""
    folder = tmp_path / "My%20Project"
    for name in ("src", "stages", "baselines"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc")
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for old, new in {**TINY, DOMAINS: "domains: [Books, Toys]"}.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    write_code(folder, "A")
    run(folder, "git", "init", "--quiet")
    run(folder, "git", "add", "--all")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "-m", "start")
    return folder


def run(folder: Path, *command: str, installed: Path | None = None) -> str:
    """Run a command in `folder` and return its output. `installed`: the checkout whose package Python finds."""
    searched = {"PYTHONPATH": str((installed or ROOT) / "src")}
    done = subprocess.run(command, cwd=folder, env=environment() | searched, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def write_code(folder: Path, name: str) -> None:
    """Make the simulator write `name` as the text of each review."""
    text = (ROOT / CHANGED).read_text(encoding="utf-8")
    assert '"Simulated."' in text
    (folder / CHANGED).write_text(text.replace('"Simulated."', f'"{name}"'), encoding="utf-8")


def name_of_code(folder: Path) -> str:
    """Return the name of the code that wrote the raw file."""
    return str(json.loads(gzip.decompress((folder / OUTPUT).read_bytes()).splitlines()[0])["reviewText"])


FETCH = "../dvc.yaml:fetch@Books"  # from a sub-folder


def run_by_the_queue(checkout: Path, other: Path) -> None:
    run(checkout / "src", "dvc", "exp", "run", "--queue", FETCH)
    write_code(checkout, "B")
    run(checkout / "src", "dvc", "exp", "run", "--run-all", installed=checkout)
    assert not (checkout / OUTPUT).exists()


def run_in_a_temporary_checkout(checkout: Path, other: Path) -> None:
    write_code(other, "B")
    run(checkout / "src", "dvc", "exp", "run", "--temp", FETCH, installed=other)
    assert not (checkout / OUTPUT).exists()


@pytest.mark.parametrize("run_elsewhere", [run_by_the_queue, run_in_a_temporary_checkout])
def test_an_experiment_has_the_result_of_the_code_that_it_was_started_with(
    checkout: Path, tmp_path: Path, run_elsewhere: Callable[[Path, Path], None]
) -> None:
    """So the run cache's entry for a version of the code has the results of that version."""
    run_elsewhere(checkout, shutil.copytree(checkout, tmp_path / "other"))
    assert list((checkout / "mlflow.pending").iterdir())  # the run is kept in this checkout
    for code in ("B", "A"):
        write_code(checkout, code)
        printed = run(checkout, "dvc", "repro", "fetch@Books", installed=tmp_path / "other")
        assert name_of_code(checkout) == code
        assert ("Running stage 'fetch@Books'" in printed) == (code == "B")  # the experiment's result is restored
