"""Compare two models by a bootstrap over users and trainings.

A difference between two models has two causes of chance: which users are in the test, and which seeds were trained.
Each sample draws users with replacement, the same for both models ("paired", because a user who is easy for one model
is easy for the other), and draws the seeds of each model with replacement. The interval is the middle 95 % of the
samples (percentile bootstrap, Efron and Tibshirani, An Introduction to the Bootstrap, 1993).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tapestry.core.arrays import Floats, Integers

_SAMPLES = 2000
_AT_ONCE = 100  # samples


@dataclass(frozen=True)
class Change:
    """Mean of a model / mean of another − 1, and its 95 % interval."""

    change: float
    low: float
    high: float


def relative_changes(
    ours: Mapping[str, Floats], theirs: Mapping[str, Floats], user_N: Integers, seed: int = 0
) -> dict[str, Change]:
    """Compare the means of metrics over targets, relative to the other model's. All metrics have the same samples.

    Args:
        ours: each metric of each seed and target, (S, N).
        theirs: the same of the other model, which may have another number of seeds, but has the same targets.
        user_N: the user of each target, from 0; a user's targets are drawn together.
        seed: of the samples.
    """
    users = int(user_N.max()) + 1
    generator = np.random.default_rng(seed)
    sums = [
        {metric: _sums(values_SN, user_N, users) for metric, values_SN in model.items()} for model in (ours, theirs)
    ]
    ratios: dict[str, list[Floats]] = {metric: [] for metric in ours}
    for _ in range(_SAMPLES // _AT_ONCE):
        # Floats: NumPy multiplies whole numbers without BLAS, a hundred times more slowly.
        drawn_BU = generator.multinomial(users, np.full(users, 1 / users), _AT_ONCE).astype(np.float64)
        seeds = [_drawn_seeds(len(next(iter(model.values()))), generator) for model in (ours, theirs)]
        for metric in ours:
            # The number of targets drawn is the same for both models, so the ratio of sums is that of means.
            ours_B, theirs_B = (
                ((drawn_BU @ of_model[metric].T) * drawn_BS).sum(1) / drawn_BS.shape[1]
                for of_model, drawn_BS in zip(sums, seeds, strict=True)
            )
            ratios[metric].append(ours_B / theirs_B - 1)
    changes = {}
    for metric, of_metric in ratios.items():
        low, high = np.quantile(np.concatenate(of_metric), [0.025, 0.975])
        changes[metric] = Change(float(ours[metric].mean() / theirs[metric].mean() - 1), float(low), float(high))
    return changes


def _sums(values_SN: Floats, user_N: Integers, users: int) -> Floats:
    """Return the sum of a user's targets, of each seed, (S, U)."""
    return np.stack([np.bincount(user_N, row, users) for row in values_SN])


def _drawn_seeds(seeds: int, generator: np.random.Generator) -> Integers:
    """Draw seeds for each sample; return how often each was drawn, (B, S)."""
    return generator.multinomial(seeds, np.full(seeds, 1 / seeds), _AT_ONCE)
