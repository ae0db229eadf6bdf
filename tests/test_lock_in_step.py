"""The check that runs before a push: dvc.lock against what lies in the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkouts import set_parameters


@pytest.fixture
def checkout(reproduced: Path, tmp_path: Path) -> Path:
    """A checkout as after a clone: `data/` and the model are in no place but DVC's cache."""
    folder = shutil.copytree(reproduced, tmp_path / "checkout")
    for name in ("data", "models"):
        shutil.rmtree(folder / name)
    return folder


def check(folder: Path) -> tuple[int, str]:
    command = [sys.executable, ".ci/lock_in_step.py"]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, timeout=120)
    return done.returncode, done.stdout


def test_a_checkout_as_it_was_made_is_in_step(checkout: Path) -> None:
    assert check(checkout) == (0, "")


def test_code_parameters_metrics_and_commands_that_differ_are_named(checkout: Path) -> None:
    set_parameters(checkout, {"train.epochs": 3})
    for name in ("src/tapestry/report/page.html.j2", "metrics/test.json"):
        with (checkout / name).open("a") as file:
            file.write("\n")
    stages = (checkout / "dvc.yaml").read_text()
    (checkout / "dvc.yaml").write_text(stages.replace("run.py sessionize\n", "run.py sessionize now\n", 1))
    code, printed = check(checkout)
    assert code == 1
    assert set(printed.splitlines()[1:-1]) == {
        "sessionize: changed command",
        "train: params.yaml: train modified",
        "figures: metrics/test.json modified",
        "report: metrics/test.json modified",
        "report: src/tapestry/report modified",
    }
    assert "dvc repro" in printed.splitlines()[-1]
