"""A model on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small import WHOLE_MODEL, random_sequences

from tapestry.config import Parameters
from tapestry.data.batches import pack
from tapestry.errors import TapestryError
from tapestry.model.network import Recommender
from tapestry.model.storage import load_model, load_train_config, save_model


def test_a_saved_model_gives_the_same_queries_when_loaded(tmp_path: Path, parameters: Parameters) -> None:
    sequences = random_sequences(0)
    model = Recommender(WHOLE_MODEL, sequences.items, 3).eval()
    save_model(tmp_path / "models", model, sequences.domains, parameters.train)
    loaded, domains = load_model(tmp_path / "models")
    batch = pack(sequences, sequences.offsets[:-1], sequences.offsets[1:] - 1)
    layout = model.arrange(batch, "sorted")
    assert torch.equal(model(batch, layout), loaded(batch, layout))
    assert (loaded.config, domains) == (WHOLE_MODEL, sequences.domains)
    assert load_train_config(tmp_path / "models") == parameters.train


def test_the_same_model_is_saved_as_the_same_bytes(tmp_path: Path, parameters: Parameters) -> None:
    sequences = random_sequences(0)
    for name in ("a", "b"):
        torch.manual_seed(1)
        save_model(tmp_path / name, Recommender(WHOLE_MODEL, 30, 3), sequences.domains, parameters.train)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("damage", ["truncated", "missing", "other width", "unknown key"])
def test_a_damaged_model_is_refused(damage: str, tmp_path: Path, parameters: Parameters) -> None:
    sequences = random_sequences(0)
    save_model(tmp_path, Recommender(WHOLE_MODEL, sequences.items, 3), sequences.domains, parameters.train)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    values = json.loads(config.read_text())
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "missing":
        weights.unlink()
    elif damage == "other width":
        values["model"]["width"] = 16
    else:
        values["model"]["depth"] = 2
    config.write_text(json.dumps(values))
    with pytest.raises(TapestryError, match="train"):
        load_model(tmp_path)
