"""Stages by hand, without DVC."""

from __future__ import annotations

import importlib.util
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import pytest
import torch
from small import WHOLE_MODEL, random_sequences

from tapestry.config import Parameters
from tapestry.errors import TapestryError
from tapestry.model.network import Recommender
from tapestry.model.storage import load_model, load_train_config
from tapestry.training.loop import DivergedError

ROOT = Path(__file__).parents[1]


def stage(name: str) -> ModuleType:
    """The module stages/<name>.py, which doesn't run on import."""
    spec = importlib.util.spec_from_file_location(f"stage_{name}", ROOT / "stages" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_best_epoch_of_a_training_that_diverges_outlives_a_temporary_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameters: Parameters
) -> None:
    main, temporary = tmp_path / "main", tmp_path / "main/.dvc/tmp/exps/tmpx"
    temporary.mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", temporary)
    monkeypatch.chdir(temporary)
    monkeypatch.setenv("DVC_ROOT", str(main))
    training = stage("train")
    sequences = random_sequences(0)
    monkeypatch.setattr(training, "stage_run", lambda *_: nullcontext(MagicMock()))
    monkeypatch.setattr(training, "read_sequences", lambda _: sequences)
    for value in (1.0, 2.0):
        model = Recommender(WHOLE_MODEL, sequences.items, 3)
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
        assert load_train_config(main / "models.last_good") == parameters.train
        assert sorted(path.name for path in main.iterdir()) == [".dvc", "models.last_good"]
        temporary.mkdir()
        shutil.copy(ROOT / "params.yaml", temporary)
        monkeypatch.chdir(temporary)
