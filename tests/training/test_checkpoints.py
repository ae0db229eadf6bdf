"""A training that is killed goes on from its checkpoint and ends in the bytes of one that never was."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from several_processes import KilledError, KillingCheckpoints
from small import WHOLE_MODEL, quick_training, random_sequences

from tapestry.core.splits import VALIDATION
from tapestry.evaluation.metrics import ranking_metrics
from tapestry.evaluation.scoring import rank_by_model
from tapestry.model.network import Recommender
from tapestry.parameters import Parameters
from tapestry.training import checkpoints as module
from tapestry.training.checkpoints import Checkpoints, StoppedError
from tapestry.training.loop import Epoch, Training, train
from tapestry.training.schedule import plateau
from tapestry.training.settings import TrainSettings

SEQUENCES = random_sequences(1, users=40)
MODEL = dataclasses.replace(WHOLE_MODEL, width=16, state_dim=16, dropout=0.3)
PASSES_OF_A_FIT = 4


@pytest.fixture
def settings(parameters: Parameters) -> TrainSettings:
    return quick_training(
        parameters,
        epochs=PASSES_OF_A_FIT,
        patience=2,
        init="cooccurrence",
        schedule="half_cosine",
        auxiliary="items",
        batch_users=9,
        negatives=4,
        temperature=parameters.train.temperature,
        average_share=0.8,
    )


def run(settings: TrainSettings, checkpoints: Checkpoints | None, seen: list[int] | None = None) -> Training:
    targets = SEQUENCES.targets(VALIDATION)

    def validate(model: Recommender) -> dict[str, float]:
        return ranking_metrics(rank_by_model(model, SEQUENCES, targets, False, 16).rank, [1, 10, 100])

    def show(epoch: Epoch) -> None:
        if seen is not None:
            seen.append(epoch.epoch)

    return train(SEQUENCES, MODEL, settings, validate, show, checkpoints)


def contents(training: Training) -> tuple[Any, dict[str, bytes]]:
    weights = {name: tensor.numpy().tobytes() for name, tensor in training.model.state_dict().items()}
    return training.record(), weights


@pytest.mark.parametrize("refit", ["none", "validation"])
@pytest.mark.parametrize("every", [1, 3])
def test_a_training_that_is_killed_again_and_again_ends_in_the_same_bytes(
    settings: TrainSettings, tmp_path: Path, refit: Any, every: int
) -> None:
    """Each life ends after 1 to 5 steps; with `every` = 3 the steps after the last checkpoint are done again."""
    settings = dataclasses.replace(settings, refit=refit)
    undisturbed = run(settings, None)
    lives = np.random.default_rng(every)
    killed = 0
    while True:
        seen: list[int] = []
        try:
            training = run(settings, KillingCheckpoints(tmp_path, every, int(lives.integers(every, 6))), seen)
            break
        except KilledError:
            killed += 1
            assert len(list(tmp_path.glob("*/*"))) <= 2
    assert killed >= 3
    assert contents(training) == contents(undisturbed)
    assert seen == [epoch.epoch for epoch in undisturbed.epochs]
    assert [epoch.training.tokens for epoch in training.epochs] == [e.training.tokens for e in undisturbed.epochs]


@pytest.mark.parametrize("every", [1, 3])
def test_a_killed_training_goes_on_at_the_learning_rate_that_validation_has_lowered(
    settings: TrainSettings, tmp_path: Path, every: int
) -> None:
    """The rate falls after each epoch that brought no better figure; a rate that isn't resumed would show in a byte."""
    settings = dataclasses.replace(
        settings,
        epochs=6,
        patience=6,
        schedule="plateau",
        plateau_factor=0.1,
        plateau_patience=0,
        stop_by="hr_1",
        warmup_epochs=1,
        refit="validation",
    )
    undisturbed = run(settings, None)
    figures = [epoch.stopping_figure() for epoch in undisturbed.epochs]
    assert plateau(figures[:-1], 0.1, 0) < 1
    lives = np.random.default_rng(every)
    for _ in range(100):
        try:
            training = run(settings, KillingCheckpoints(tmp_path, every, int(lives.integers(every, 6))))
            break
        except KilledError:
            pass
    assert contents(training) == contents(undisturbed)


def killed_at(settings: TrainSettings, folder: Path, steps: int) -> list[Path]:
    """Train until a step with a checkpoint after every step; return the folders of the checkpoints."""
    with pytest.raises(KilledError):
        run(settings, KillingCheckpoints(folder, 1, steps))
    return sorted(folder.glob("*/*"))


@pytest.mark.parametrize("name", ["state.safetensors", "values.json", "checksums.json"])
@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(
    settings: TrainSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, damage: str
) -> None:
    before, last = killed_at(settings, tmp_path, 7)
    file = last / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[: len(content) // 2] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    found = Checkpoints(tmp_path, {"same": 1}).read_latest()
    assert f"{last}.damaged: a damaged checkpoint (" in capsys.readouterr().err
    assert [path.name for path in sorted(tmp_path.glob("*/*"))] == [before.name, f"{last.name}.damaged"]
    assert found is not None
    assert contents(run(settings, Checkpoints(tmp_path, {"same": 1}))) == contents(run(settings, None))


def test_without_a_whole_checkpoint_training_starts_anew(settings: TrainSettings, tmp_path: Path) -> None:
    for folder in killed_at(settings, tmp_path, 7):
        (folder / "values.json").write_text("{}")
    assert contents(run(settings, Checkpoints(tmp_path, {"same": 1}))) == contents(run(settings, None))


def test_a_checkpoint_is_not_used_under_another_fingerprint(settings: TrainSettings, tmp_path: Path) -> None:
    killed_at(settings, tmp_path, 7)
    assert Checkpoints(tmp_path, {"same": 2}).read_latest() is None
    assert Checkpoints(tmp_path, {"same": 1}).read_latest() is not None


def test_checkpoints_of_trainings_that_nobody_resumes_are_bounded(settings: TrainSettings, tmp_path: Path) -> None:
    folders = []
    for number in range(7):
        checkpoints = Checkpoints(tmp_path, {"number": number})
        checkpoints.write({"step": number})
        os.utime(checkpoints.folder, (number, number))
        folders.append(checkpoints.folder)
    assert sorted(tmp_path.iterdir()) == sorted(folders[-4:])
    checkpoints.remove()
    assert not checkpoints.folder.exists()


def test_a_full_disk_leaves_training_without_a_checkpoint(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "save_file", full)
    training = run(settings, KillingCheckpoints(tmp_path, 1, 1000))
    assert "train: no checkpoint:" in capsys.readouterr().err
    assert contents(training) == contents(run(settings, None))


def test_checkpoints_take_a_small_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 29.0, 30.0, 30.0, 40.0, 539.0, 540.0])  # writing takes 10 s: 2 % of 500 s
    monkeypatch.setattr(module, "time", type("Clock", (), {"monotonic": lambda: next(clock)}))
    checkpoints = Checkpoints(tmp_path, {})
    assert not checkpoints.due()
    assert checkpoints.due()
    checkpoints.write({"step": 1})
    assert not checkpoints.due()
    assert checkpoints.due()


SCRIPT = """
import sys
from pathlib import Path
import test_checkpoints as t
from tapestry.parameters import load_parameters

class Slow(t.Checkpoints):
    def due(self):
        t.time.sleep(0.02)
        return self._stop or self._number < 3

checkpoints = Slow(Path(sys.argv[1]), {"same": 1})
settings = t.settings.__wrapped__(load_parameters(Path(sys.argv[2])))
with checkpoints.stopping_at_sigterm():
    t.run(settings, checkpoints)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_a_checkpoint_from_which_another_goes_on(
    settings: TrainSettings, tmp_path: Path, params_yaml: Path, how: signal.Signals
) -> None:
    """SIGTERM has one written after the step; after SIGKILL there are those that were written before."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "all"), str(params_yaml)]
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([paths, os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while len(list((tmp_path / "all").glob("*/*/checksums.json"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(how)
        _, errors = process.communicate()
    assert process.returncode != 0
    assert ("ended by SIGTERM" in errors) == (how == signal.SIGTERM)
    assert Checkpoints(tmp_path / "all", {"same": 1}).read_latest() is not None
    training = run(settings, Checkpoints(tmp_path / "all", {"same": 1}))
    assert contents(training) == contents(run(settings, None))


def test_stopping_is_an_error_that_says_what_comes_next(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, {})
    with checkpoints.stopping_at_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
        assert checkpoints.due()
        with pytest.raises(StoppedError, match="the next `dvc repro` goes on from a checkpoint"):
            checkpoints.write({"step": 1})
    assert checkpoints.read_latest() == {"step": 1}
