"""How a factor changes over a training: that of the learning rate (`train.schedule`), and of auxiliary targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tapestry.training.settings import TrainSettings

Schedule = Callable[[int], float]
"""Step, counted from 1 → the factor there."""


def schedule_of(settings: TrainSettings, steps_a_pass: int) -> Schedule:
    """Return the learning rate's schedule of a training: that of `schedule`, after the steps of `warmup_epochs`.

    For `plateau` it is constant: what changes there is a further factor, from epoch to epoch (see `plateau`).
    """
    warmup = settings.warmup_epochs * steps_a_pass
    steps = settings.epochs * steps_a_pass - warmup
    schedules = {
        "constant": constant,
        "half_cosine": half_cosine(steps),
        "cosine": cosine(steps),
        "plateau": constant,
    }
    return warmed_up(warmup, schedules[settings.schedule])


def constant(step: int) -> float:
    """The factor is always 1."""
    return 1.0


def half_cosine(steps: int) -> Schedule:
    """The factor is 1 for half of the `steps`, then falls to 0 along half a cosine; 0 after the last step."""

    def factor(step: int) -> float:
        return (1 + math.cos(math.pi * _past_half(step, steps))) / 2

    return factor


def cosine(steps: int) -> Schedule:
    """The factor falls from 1 to 0 along half a cosine, over all of the `steps`; 0 after the last step."""

    def factor(step: int) -> float:
        return (1 + math.cos(math.pi * min(step / steps, 1.0))) / 2

    return factor


def warmed_up(steps: int, schedule: Schedule) -> Schedule:
    """The factor rises along a line: it is s / steps at step s. After these steps `schedule` begins, at its step 1."""

    def factor(step: int) -> float:
        return step / steps if step <= steps else schedule(step - steps)

    return factor


def plateau(figures: Sequence[float], factor: float, patience: int) -> float:
    """Return the factor of the learning rate in the epoch that follows those with these validation figures.

    It is multiplied by `factor` once more than `patience` epochs in a row have brought no figure above the best one
    before; after each decrease the epochs are counted from 0 again. This is torch's `ReduceLROnPlateau` with
    mode="max", threshold=0 and eps=0.

    Args:
        figures: one an epoch; greater is better.
    """
    rate, best, since = 1.0, -math.inf, 0
    for figure in figures:
        best, since = (figure, 0) if figure > best else (best, since + 1)
        if since > patience:
            rate, since = rate * factor, 0
    return rate


def half_linear(steps: int) -> Schedule:
    """The factor is 1 for half of the `steps`, then falls to 0 along a line; 0 after the last step."""

    def factor(step: int) -> float:
        return 1 - _past_half(step, steps)

    return factor


def _past_half(step: int, steps: int) -> float:
    """Return 0 in the first half of the steps, then the fraction of the second half that is over, at most 1."""
    return min(max((2 * step - steps) / steps, 0.0), 1.0)
