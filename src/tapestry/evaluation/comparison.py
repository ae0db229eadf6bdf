"""Compare two models by a bootstrap over users and trainings.

A difference between two models has two causes of chance: which users are in the test, and which seeds were trained.
Each sample draws users with replacement, the same for both models ("paired", because a user who is easy for one model
is easy for the other), and draws the seeds of each model with replacement. The interval is the middle 95 % of the
samples (percentile bootstrap, Efron and Tibshirani, An Introduction to the Bootstrap, 1993).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_SAMPLES = 2000
_AT_ONCE = 100  # samples


@dataclass(frozen=True)
class Change:
    """Mean of a model / mean of another − 1, and its 95 % interval."""

    change: float
    low: float
    high: float


def relative_change(ours_SN: Floats, theirs_SN: Floats, user_N: Integers, seed: int = 0) -> Change:
    """Compare the means of a metric over targets, relative to the other model's.

    Args:
        ours_SN: the metric of each seed and target.
        theirs_SN: the same of the other model, which may have another number of seeds, but has the same targets.
        user_N: the user of each target, from 0; a user's targets are drawn together.
        seed: of the samples.
    """
    users = int(user_N.max()) + 1
    generator = np.random.default_rng(seed)
    by_user: list[Floats] = [
        np.stack([np.bincount(user_N, row, users) for row in model]) for model in (ours_SN, theirs_SN)
    ]
    ratios = []
    for _ in range(_SAMPLES // _AT_ONCE):
        drawn_BU = generator.multinomial(users, np.full(users, 1 / users), _AT_ONCE).astype(np.float64)
        # The number of targets drawn is the same for both models, so the ratio of sums is that of means.
        ours_B, theirs_B = (_resampled(sums_SU, drawn_BU, generator) for sums_SU in by_user)
        ratios.append(ours_B / theirs_B - 1)
    low, high = np.quantile(np.concatenate(ratios), [0.025, 0.975])
    return Change(float(ours_SN.mean() / theirs_SN.mean() - 1), float(low), float(high))


def _resampled(sums_SU: Floats, drawn_BU: Floats, generator: np.random.Generator) -> Floats:
    """Return the mean over seeds, drawn anew in each sample, of the sum over drawn users. (B,)"""
    seeds = len(sums_SU)
    drawn_BS = generator.multinomial(seeds, np.full(seeds, 1 / seeds), len(drawn_BU))
    mean: Floats = ((drawn_BU @ sums_SU.T) * drawn_BS).sum(1) / seeds
    return mean
