"""Stages started by hand, without DVC."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import pytest
import torch
from small import WHOLE_MODEL, random_sequences

from tapestry.core.errors import TapestryError
from tapestry.model.network import Recommender
from tapestry.model.storage import load_model
from tapestry.parameters import Parameters
from tapestry.sequences.cooccurrence import neighbours_of
from tapestry.training.loop import DivergedError

ROOT = Path(__file__).parents[2]


STAGES = ("source", "fetch", "ingest", "sessionize", "baseline", "train", "evaluate", "figures", "report")
ITEM = {"fetch": ["Books"], "ingest": ["Books"], "baseline": ["popularity"]}
DOMAINS = "Books, Clothing_Shoes_and_Jewelry, Sports_and_Outdoors, Toys_and_Games, Video_Games"


def error_line(folder: Path, name: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
    """Run a stage that fails in `folder`; return its message without the stage's name."""
    unset = ("DVC_", "MLFLOW_", "PYTHONPATH")  # a stage finds its code without them
    environment = {key: value for key, value in os.environ.items() if not key.startswith(unset)}
    command = [sys.executable, *options, str(ROOT / "stages/run.py"), name, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(name)
    assert done.stderr.count("\n") == 1
    return done.stderr.partition(": error: ")[2].removesuffix("\n")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in which nothing has run yet."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["fetch", "ingest"])
def test_a_stage_of_one_domain_requires_a_known_domain(checkout: Path, name: str) -> None:
    accepted = f"source.domains: {DOMAINS}"
    assert error_line(checkout, name) == f"one argument is needed, found none; accepted is one of {accepted}"
    several = error_line(checkout, name, "Books", "Video_Games")
    assert several == f"one argument is needed, found Books Video_Games; accepted is one of {accepted}"
    for unknown in ("Toys", "", "../Books", "-h"):
        assert error_line(checkout, name, unknown) == f"{unknown!r} is not one of {accepted}"
    assert error_line(checkout, name, "\x1b[31m") == f"'\\x1b[31m' is not one of {accepted}"
    assert {path.name for path in checkout.iterdir()} == {"params.yaml", "dvc.yaml"}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_in_another_folder_says_where_to_run_and_writes_nothing(tmp_path: Path, name: str) -> None:
    line = error_line(tmp_path, name, *ITEM.get(name, []))
    assert line in (
        "params.yaml not found: run from the checkout's root",
        f"dvc.yaml not found in {tmp_path}: run from the checkout's root",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ingest", "data/raw/Books: not there; run `dvc repro fetch@Books`"),
        ("sessionize", "data/interactions/Books.parquet: not there; run `dvc repro ingest@Books`"),
        ("baseline", "data/sequences: no sequences; run `dvc repro sessionize`"),
        ("train", "data/sequences: no sequences; run `dvc repro sessionize`"),
        ("evaluate", "data/sequences: no sequences; run `dvc repro sessionize`"),
        ("figures", "metrics/ranks.parquet: no ranks; run `dvc repro`"),
        ("report", "metrics/curve.csv: not there; run `dvc repro`"),
    ],
)
def test_a_missing_input_is_reported_with_the_stage_that_makes_it(checkout: Path, name: str, expected: str) -> None:
    assert error_line(checkout, name, *ITEM.get(name, [])) == expected


@pytest.mark.parametrize(("files", "found"), [([], "none"), (["a.csv", "b.csv"], "a.csv, b.csv")])
def test_ingest_requires_exactly_one_raw_file(checkout: Path, files: list[str], found: str) -> None:
    folder = checkout / "data/raw/Books"
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).touch()
    assert error_line(checkout, "ingest", "Books") == (
        f"data/raw/Books: one file is expected there, found {found}; run `dvc repro --force fetch@Books`"
    )


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_outside_its_environment_says_how_to_create_it(tmp_path: Path, name: str) -> None:
    line = error_line(tmp_path, name, options=("-S",))  # without site-packages
    assert re.fullmatch(
        rf"{re.escape(sys.executable)} has no package \w+; run `make install` in {re.escape(str(ROOT))} once, then "
        rf"`source {re.escape(str(ROOT))}/.venv/bin/activate` in each shell",
        line,
    )


def test_an_older_python_is_reported_with_the_required_version(tmp_path: Path) -> None:
    code = (
        "import runpy, sys; sys.version_info = (3, 10, 13); sys.argv = ['run.py', 'train']; "
        f"runpy.run_path({str(ROOT / 'stages/run.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"train: error: Python 3.11 or newer is needed, {sys.executable} is older; run ")


def test_an_unexpected_error_keeps_its_traceback(tmp_path: Path) -> None:
    copy_code(tmp_path)
    (tmp_path / "stages" / "broken.py").write_text("raise ValueError('what else')\n")
    done = subprocess.run([sys.executable, "stages/run.py", "broken"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ValueError: what else\n")


SENDING = """
import threading
import pyarrow as pa

def send():
    while True:
        pa.table({"a": range(1000)}).to_pandas()  # C++ code that takes and releases Python's lock

def main():
    threading.Thread(target=send, name="mlflow", daemon=True).start()
    print("made", flush=True)
    threading.Event().wait(3)
    FAILURE
"""


@pytest.mark.parametrize(
    ("failure", "code", "error"),
    [
        ("pass", 0, ""),
        ("raise SystemExit(1)", 1, ""),
        ("raise ValueError('what else')", 1, "ValueError: what else\n"),
    ],
)
def test_a_store_that_does_not_answer_changes_no_exit_code(tmp_path: Path, failure: str, code: int, error: str) -> None:
    """Without care the interpreter aborts: it interrupts the thread that still sends, in C++ code."""
    copy_code(tmp_path)
    (tmp_path / "stages/slow.py").write_text(SENDING.replace("FAILURE", failure))
    command = [sys.executable, "stages/run.py", "slow"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "made\n")
    assert done.stderr.endswith(error)
    assert "terminate called" not in done.stderr


def copy_code(folder: Path) -> None:
    for name in ("stages", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


@pytest.mark.parametrize("code", ["-c", "-m"])
def test_a_stage_and_its_child_processes_run_the_code_of_their_checkout(tmp_path: Path, code: str) -> None:
    """They don't run the code of another checkout that is on PYTHONPATH or installed."""
    copy_code(tmp_path)
    where = "import tapestry.core.errors as errors; print(errors.__file__, flush=True)"
    (tmp_path / "src/tapestry/where.py").write_text(where)
    started = [code, where if code == "-c" else "tapestry.where"]
    (tmp_path / "stages/where.py").write_text(
        f"import subprocess, sys\n{where}\ndef main():\n    subprocess.run([sys.executable, *{started}], check=True)\n"
    )
    done = subprocess.run(
        [sys.executable, tmp_path / "stages/run.py", "where"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == 2 * f"{tmp_path}/src/tapestry/core/errors.py\n"


@pytest.mark.parametrize(
    ("gone", "missing"),
    [("src/tapestry", "src/tapestry"), ("src/tapestry/model/network.py", "src/tapestry/model/network")],
)
def test_code_missing_in_a_checkout_is_not_taken_from_another(tmp_path: Path, gone: str, missing: str) -> None:
    copy_code(tmp_path)
    (tmp_path / gone).rename(tmp_path / "aside")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "stages/run.py", "train"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        f"train: error: {tmp_path} has no {missing}; `dvc exp run --temp` and `--queue` see only the files that git "
        "tracks: `git add` it\n"
    )


def stage(name: str) -> ModuleType:
    """Import the module stages/<name>.py; its import runs nothing."""
    spec = importlib.util.spec_from_file_location(f"stage_{name}", ROOT / "stages" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_best_epoch_of_a_diverged_training_survives_its_temporary_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameters: Parameters
) -> None:
    main, temporary = tmp_path / "main", tmp_path / "main/.dvc/tmp/exps/tmpx"
    temporary.mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", temporary)
    monkeypatch.chdir(temporary)
    monkeypatch.setenv("DVC_ROOT", str(main))
    monkeypatch.syspath_prepend(ROOT / "stages")
    training = stage("train")
    sequences = random_sequences(0)
    tracked = MagicMock()
    tracked.log_input.return_value = "hash of the data"
    monkeypatch.setattr(training, "stage_run", lambda *_: nullcontext(tracked))
    monkeypatch.setattr(training, "read_sequences", lambda _: sequences)
    for value in (1.0, 2.0):
        model = Recommender(WHOLE_MODEL, sequences.items, 3)
        model.neighbours = neighbours_of(sequences)
        torch.nn.init.constant_(model.item.weight, value)

        def diverge(*_: object, model: Recommender = model) -> None:
            raise DivergedError("train: epoch 2, step 1: the loss is nan", model)

        monkeypatch.setattr(training, "train", diverge)
        with pytest.raises(TapestryError, match="the loss is nan; the best epoch's weights are in ") as failure:
            training.main()
        assert str(failure.value).endswith(f" {main / 'models.last_good'}")
        monkeypatch.chdir(main)
        shutil.rmtree(temporary)  # as DVC does
        loaded, domains = load_model(main / "models.last_good")
        assert loaded.item.weight.unique().tolist() == [value]
        assert domains == sequences.domains
        assert sorted(path.name for path in main.iterdir()) == [".dvc", "models.last_good"]
        temporary.mkdir()
        shutil.copy(ROOT / "params.yaml", temporary)
        monkeypatch.chdir(temporary)
