"""Random batches and sequences of given shapes, for the benchmarks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from tapestry.core.splits import TRAIN
from tapestry.model.device import choose_device, make_deterministic
from tapestry.model.network import Recommender
from tapestry.model.settings import ModelSettings
from tapestry.parameters import load_parameters
from tapestry.sequences.batches import Batch
from tapestry.sequences.reader import Domain, Sequences
from tapestry.training.settings import TrainSettings
from tapestry.training.trainer import Trainer

TOKENS = 131_072 if torch.cuda.is_available() else 16_384  # a GPU needs more work at a time
PRECISION: Literal["fp32", "bf16"] = "bf16" if torch.cuda.is_available() else "fp32"
LAYERS = 2  # of the paper's model, and of what is compared with it
PARAMETERS = load_parameters(Path(__file__).parents[1] / "params.yaml")


def shares(domains: int, largest: float | None = None) -> npt.NDArray[np.float64]:
    """Return equal shares of the domains, or one share of `largest` and the others equal."""
    if largest is None:
        return np.full(domains, 1 / domains)
    return np.array([largest, *[(1 - largest) / (domains - 1)] * (domains - 1)])


def random_sequences(length: int, users: int, share: npt.NDArray[np.float64], items: int) -> Sequences:
    """Make training histories of `length` + 1 random items; all domains have the same number of items."""
    generator = np.random.default_rng(0)
    domains, total = len(share), users * (length + 1)
    edges = np.linspace(0, items, domains + 1).astype(np.int64)
    domain = generator.choice(domains, total, p=share)
    item = edges[domain] + (generator.random(total) * (edges[domain + 1] - edges[domain])).astype(np.int64)
    return Sequences(
        item=item.astype(np.int32),
        domain=domain.astype(np.int16),
        timestamp=np.arange(total),
        split=np.full(total, TRAIN, dtype=np.int8),
        offsets=np.arange(users + 1) * (length + 1),
        user_id=np.arange(users).astype(str).astype(object),
        item_id=np.empty(items, dtype=object),
        train_count=np.bincount(item, minlength=items),
        domains=tuple(Domain(f"D{d}", int(edges[d]), int(edges[d + 1])) for d in range(domains)),
    )


def random_batch(length: int, share: npt.NDArray[np.float64], tokens: int = TOKENS) -> Batch:
    """Make a batch of about `tokens` tokens, in histories of `length` positions."""
    users = max(1, tokens // length)
    domain = np.random.default_rng(0).choice(len(share), users * length, p=share)
    zeros = torch.zeros(users * length, dtype=torch.int64)
    position = torch.arange(length).repeat(users)
    return Batch(zeros, torch.from_numpy(domain), zeros, zeros, zeros, position, torch.arange(users + 1) * length)


def model_settings(whole: bool, **changes: object) -> ModelSettings:
    """Return the settings of the paper's model, or with the same width and layers those of HSTU + ALiBi."""
    attention = "intra" if whole else "full"
    kind: dict[str, object] = {
        "layers": LAYERS,
        "attention": attention,
        "tape": whole,
        "ddsr": whole,
        "request_time": False,
        "target_state": False,
    }
    return dataclasses.replace(PARAMETERS.model, **(kind | changes))  # type: ignore[arg-type]


def train_settings(**changes: object) -> TrainSettings:
    """Return the settings of a training without the levers of `train`, until early stopping; in bf16 on a GPU."""
    plain: dict[str, object] = {"epochs": 30, "patience": 5, "init": "random", "schedule": "constant"}
    plain |= {"auxiliary": "none", "precision": PRECISION}
    return dataclasses.replace(PARAMETERS.train, **(plain | changes))  # type: ignore[arg-type]


def trainer_of(sequences: Sequences, model: ModelSettings, train: TrainSettings) -> Trainer:
    """Make a trainer of a new model, on the device that `train` selects."""
    make_deterministic(train.seed, train.threads)
    recommender = Recommender(model, sequences.items, len(sequences.domains))
    return Trainer(recommender.to(choose_device(train.device)), sequences, train)
