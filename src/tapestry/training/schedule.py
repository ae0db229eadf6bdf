"""How the learning rate changes over a training: `train.schedule`."""

from __future__ import annotations

import math
from collections.abc import Callable

Schedule = Callable[[int], float]
"""Step, counted from 1 → the factor of the learning rate there."""


def constant(step: int) -> float:
    """The learning rate stays as it is."""
    return 1.0


def half_cosine(steps: int) -> Schedule:
    """The learning rate stays for half of the `steps`, then falls to 0 along half a cosine; 0 after the last step."""

    def factor(step: int) -> float:
        past_half = min(max((2 * step - steps) / steps, 0.0), 1.0)
        return (1 + math.cos(math.pi * past_half)) / 2

    return factor
