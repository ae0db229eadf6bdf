"""Test metrics over all targets and by group of targets, computed from tables of ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tapestry.core.arrow import to_numpy
from tapestry.evaluation.metrics import ranking_metrics
from tapestry.evaluation.sampled import sampled_metrics

MODEL = "tapestry"
POPULARITY_BANDS = ("tail", "middle", "head")


def compare(
    table: pa.Table,
    baselines: Mapping[str, pa.Table],
    ks: Sequence[int],
    domains: Sequence[str],
    sampled_negatives: int | None = None,
) -> dict[str, Any]:
    """Return the contents of metrics/test.json: `summarise` of the model's ranks, and each baseline's metrics."""
    figures = summarise(table, ks, domains, sampled_negatives)
    figures["baselines"] = {name: _metrics(ranked, ks, sampled_negatives) for name, ranked in baselines.items()}
    return figures


def summarise(
    table: pa.Table, ks: Sequence[int], domains: Sequence[str], sampled_negatives: int | None = None
) -> dict[str, Any]:
    """Compute metrics over all targets and by domain, transition, tie and popularity, from a table of ranks.

    "popularity" has three bands of targets, by the training count of their item. The terciles of these counts over
    targets separate the bands: `tail` up to the first, `middle` up to the second, `head` above it.
    """
    domain, switch, tied = (to_numpy(table[name]) for name in ("domain", "switch", "tied"))
    popularity = to_numpy(table["popularity"])
    low, high = np.quantile(popularity, [1 / 3, 2 / 3], method="lower")
    band = (popularity > low).astype(int) + (popularity > high)

    def metrics(chosen: npt.NDArray[np.bool_]) -> dict[str, float]:
        return _metrics(table, ks, sampled_negatives, chosen)

    return {
        "all": _metrics(table, ks, sampled_negatives),
        "domain": {name: metrics(domain == name) for name in domains},
        "transition": {"same": metrics(~switch), "switch": metrics(switch)},
        "tied": {"tied": metrics(tied), "untied": metrics(~tied)},
        "popularity": {name: metrics(band == index) for index, name in enumerate(POPULARITY_BANDS)},
    }


def _metrics(
    table: pa.Table,
    ks: Sequence[int],
    sampled_negatives: int | None,
    chosen: npt.NDArray[np.bool_] | slice = slice(None),
) -> dict[str, float]:
    """Compute the metrics of some targets: of the full ranking, and those among sampled negatives if wanted."""
    rank = to_numpy(table["rank"])[chosen]
    metrics = ranking_metrics(rank, ks)
    if sampled_negatives is not None:
        metrics |= sampled_metrics(rank, to_numpy(table["candidates"])[chosen], sampled_negatives, ks)
    return metrics


def hr_by_cutoff(figures: Mapping[str, Any], ks: Sequence[int]) -> list[dict[str, Any]]:
    """Return the rows of metrics/cutoffs.csv, from the contents of metrics/test.json: method, k and HR@K.

    A method is the model or a baseline. Columns are the same whichever baselines ran, as dvc.yaml names those of plots.
    """
    methods = {MODEL: figures["all"], **figures["baselines"]}
    return [{"method": name, "k": k, "hr": row[f"hr_{k}"]} for name, row in methods.items() for k in ks]
