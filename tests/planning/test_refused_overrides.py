"""`dvc exp run -S` with an invalid key or value stops before any stage but `source` has run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from checkouts import environment, make_checkout, run_in, snapshot


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkout(tmp_path_factory.mktemp("refused") / "checkout")


def try_override(folder: Path, override: str) -> str:
    """Start an experiment that must fail before any stage but `source` has run; return what DVC prints."""
    command = ["dvc", "exp", "run", "-S", override]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode != 0
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed
    assert set(re.findall(r"Running stage '([^']+)'", printed)) <= {"source"}
    assert not [path for path in (folder / "data").rglob("*") if path.is_file()]
    return printed


@pytest.mark.parametrize("override", ["train.epoch=3", "train.nfiles=3", "model.size=3", "epochs=3"])
def test_dvc_refuses_an_unknown_key_and_does_not_change_the_file(checkout: Path, override: str) -> None:
    before = snapshot(checkout)["params.yaml"]
    assert f"Could not override '{override.partition('=')[0]}'" in try_override(checkout, override)
    assert snapshot(checkout)["params.yaml"] == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+train.size=3", "train.size: unknown parameter; known are epochs, "),
        ("+train.nfiles=3", "train.nfiles: unknown parameter"),
        ("+size=3", "size: unknown parameter"),
        ("train.epochs={size: 3}", "train.epochs: expected a whole number, got {'size': 3}"),
        ("train.epochs=x", "train.epochs: expected a whole number, got 'x'"),
        ("train.epochs=0", "train.epochs: 0 is below 1"),
        ("~train.patience", "train.patience: missing"),
        ("model.state_dim=7", "model.state_dim: 7 is not divisible by model.heads = 4"),
    ],
)
def test_the_stage_source_refuses_other_errors_and_git_restores_the_file(
    checkout: Path, override: str, message: str
) -> None:
    """By then DVC has written the value to params.yaml, where it would fail each later run."""
    before = (checkout / "params.yaml").read_bytes()
    assert f"source: error: params.yaml: {message}" in try_override(checkout, override)
    assert (checkout / "params.yaml").read_bytes() != before
    (checkout / "params.yaml").touch()  # git misses a change within a second that keeps the file's size
    run_in(checkout, "git", "restore", "params.yaml")
    assert (checkout / "params.yaml").read_bytes() == before
