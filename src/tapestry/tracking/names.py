"""What figures are called in MLflow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

OF_TRAINING = ("loss", "tape_norm")
"""An epoch's figures that are of training; the others are of validation."""

_REFUSED = re.compile(r"[^/\w.\- :]")  # by MLflow, in a metric's name


def curve_metrics(figures: Mapping[str, float]) -> dict[str, float]:
    """An epoch's figures by their names in MLflow: `train/loss`, `train/tape_norm`, and the rest as `val/hr_10`."""
    named = {key: "train" if key in OF_TRAINING else "val" for key in figures if key != "epoch"}
    return {f"{prefix}/{key}": figures[key] for key, prefix in named.items()}


def flatten_metrics(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """{"all": {"hr_10": 0.1}} with prefix `test` → {"test/all/hr_10": 0.1}."""
    flat: dict[str, float] = {}
    for key, value in metrics.items():
        name = f"{prefix}/{key}"
        if isinstance(value, Mapping):
            flat |= flatten_metrics(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[_REFUSED.sub("_", name)] = float(value)
    return flat
