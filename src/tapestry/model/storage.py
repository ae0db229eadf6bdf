"""A trained model on disk: weights in safetensors, the resolved config beside them in JSON. No pickle."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tapestry.atomic import atomic_folder, write_json
from tapestry.config import ModelConfig, TrainConfig, parse
from tapestry.data.sequences import Domain
from tapestry.errors import TapestryError
from tapestry.model.network import Recommender

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def save_model(folder: Path, model: Recommender, domains: Sequence[Domain], train: TrainConfig) -> None:
    """Write weights and resolved config to `folder`, atomically. The model must be on the CPU."""
    config = {
        "model": dataclasses.asdict(model.config),
        "train": dataclasses.asdict(train),
        "domains": [dataclasses.asdict(domain) for domain in domains],
    }
    with atomic_folder(folder) as temporary:
        save_file(dict(sorted(model.state_dict().items())), temporary / WEIGHTS)
        write_json(temporary / CONFIG, config)


def load_train_config(folder: Path) -> TrainConfig:
    """The training parameters that a saved model came from."""
    return parse(TrainConfig, json.loads((folder / CONFIG).read_text(encoding="utf-8"))["train"], "train")


def load_model(folder: Path) -> tuple[Recommender, tuple[Domain, ...]]:
    """Read what `save_model` wrote; the model is on the CPU, in evaluation mode.

    Raises:
        TapestryError: a file is missing, damaged, or of another version of the model.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS)
        domains = tuple(Domain(**domain) for domain in config["domains"])
        model = Recommender(parse(ModelConfig, config["model"], "model"), domains[-1].end, len(domains))
        model.load_state_dict(weights)
    except FileNotFoundError as error:
        raise TapestryError(f"{error.filename}: no trained model; run `dvc repro train`") from error
    except (SafetensorError, TapestryError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise TapestryError(f"{folder}: not a model this version can read ({error}); train it again") from error
    return model.eval(), domains
