"""Section `peers` of params.yaml, and all settings that a baseline reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tapestry.core.bounds import Seed, between
from tapestry.evaluation.settings import EvaluateSettings


@dataclass(frozen=True)
class PeerSettings:
    """How the models of other libraries are trained: `als` (implicit), `sasrec` and `hstu_rectools` (RecTools)."""

    width: Annotated[int, between(4, 4096)] = 64
    """Numbers in the vector of an item; for RecTools divisible by its 4 heads."""
    window: Annotated[int, between(1, 65_536)] = 64
    """Most recent items of a history that RecTools' models read."""
    epochs: Annotated[int, between(1, 10_000)] = 16
    """Epochs of RecTools' models, of which the best on validation is kept; iterations of ALS, of which the last is."""
    learning_rate: Annotated[float, between(1e-9, 1_000)] = 0.001
    """Of RecTools' models."""
    dropout: Annotated[float, between(0, 0.99)] = 0.2
    """Of RecTools' models."""
    seed: Seed = 7
    """Seed of all random numbers of a baseline."""


@dataclass(frozen=True)
class BaselineSettings:
    """What a baseline may read of params.yaml: the parameters that the stage `baseline` of dvc.yaml lists."""

    exclude_seen: bool
    """`evaluate.exclude_seen`: whether rankings are without the items of the history."""
    batch_users: int
    """`evaluate.batch_users`: requests ranked at once."""
    neighbours: int
    """`evaluate.neighbours`, of item-kNN."""
    threads: int
    """`evaluate.threads`: CPU threads."""
    peers: PeerSettings
    """Section `peers`."""


def baseline_settings(evaluate: EvaluateSettings, peers: PeerSettings) -> BaselineSettings:
    """Take what baselines read from the two sections."""
    return BaselineSettings(evaluate.exclude_seen, evaluate.batch_users, evaluate.neighbours, evaluate.threads, peers)
