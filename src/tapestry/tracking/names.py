"""The names of metrics in MLflow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

TRAINING_METRICS = ("loss", "tape_norm")
"""The training metrics of an epoch; the other metrics of an epoch are validation metrics."""

COMPARED_BY = "ndcg_10"
"""The validation figure of the best epoch by which registered models are compared (`tapestry.tracking.registry`).

It is the same for all, whatever `train.stop_by` is: models that were stopped by different figures don't compare by
these. Every training has it.
"""

_REFUSED = re.compile(r"[^/\w.\- :]")  # characters that MLflow doesn't accept in a metric's name


def curve_metrics(figures: Mapping[str, float]) -> dict[str, float]:
    """Rename an epoch's metrics for MLflow: `train/loss`, `train/tape_norm`, and the others as `val/hr_10`."""
    named = {key: "train" if key in TRAINING_METRICS else "val" for key in figures if key != "epoch"}
    return {f"{prefix}/{key}": figures[key] for key, prefix in named.items()}


def flatten_metrics(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Flatten nested metrics: {"all": {"hr_10": 0.1}} with the prefix `test` → {"test/all/hr_10": 0.1}."""
    flat: dict[str, float] = {}
    for key, value in metrics.items():
        name = f"{prefix}/{key}"
        if isinstance(value, Mapping):
            flat |= flatten_metrics(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[_REFUSED.sub("_", name)] = float(value)
    return flat
