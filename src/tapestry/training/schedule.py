"""How the learning rate changes over a training: `train.schedule`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Schedule = Callable[[Tensor], Tensor]
"""Steps, counted from 1 → the factors of the learning rate there, both float64 and of one shape."""


def constant(step: Tensor) -> Tensor:
    """The learning rate stays as it is."""
    return torch.ones_like(step)


def half_cosine(steps: int) -> Schedule:
    """The learning rate stays for half of the `steps`, then falls to 0 along half a cosine; 0 after the last step."""

    def factor(step: Tensor) -> Tensor:
        past_half = ((2 * step - steps) / steps).clamp(0, 1)
        return (1 + _cos(math.pi * past_half)) / 2

    return factor


def factor_at(schedule: Schedule, step: int) -> float:
    """Return the factor at one step."""
    return float(schedule(torch.tensor([step], dtype=torch.float64)))


def _cos(x: Tensor) -> Tensor:
    """cos x by libm, entry by entry: torch's has other last bits on other processors."""
    return torch.tensor([math.cos(value) for value in x.flatten().tolist()], dtype=torch.float64).view(x.shape)
