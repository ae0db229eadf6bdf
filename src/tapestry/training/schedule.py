"""How a factor changes over a training: that of the learning rate (`train.schedule`), and of auxiliary targets."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]
"""Step, counted from 1 → the factor there."""


def constant(step: int) -> float:
    """The factor is always 1."""
    return 1.0


def half_cosine(steps: int) -> Schedule:
    """The factor is 1 for half of the `steps`, then falls to 0 along half a cosine; 0 after the last step."""

    def factor(step: int) -> float:
        return (1 + math.cos(math.pi * _past_half(step, steps))) / 2

    return factor


def half_linear(steps: int) -> Schedule:
    """The factor is 1 for half of the `steps`, then falls to 0 along a line; 0 after the last step."""

    def factor(step: int) -> float:
        return 1 - _past_half(step, steps)

    return factor


def _past_half(step: int, steps: int) -> float:
    """Return 0 in the first half of the steps, then the fraction of the second half that is over, at most 1."""
    return min(max((2 * step - steps) / steps, 0.0), 1.0)
