"""The test figures, in all and by groups of targets, from the ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tapestry.evaluation.metrics import ranking_metrics

MODEL = "tapestry"
POPULARITY_BANDS = ("tail", "middle", "head")


def compare(
    table: pa.Table, baselines: Mapping[str, pa.Table], ks: Sequence[int], domains: Sequence[str]
) -> dict[str, Any]:
    """The contents of metrics/test.json: `summarise` of the model's ranks, and "baselines", each over all targets."""
    figures = summarise(table, ks, domains)
    figures["baselines"] = {name: ranking_metrics(ranked["rank"].to_numpy(), ks) for name, ranked in baselines.items()}
    return figures


def summarise(table: pa.Table, ks: Sequence[int], domains: Sequence[str]) -> dict[str, Any]:
    """Figures over all targets and by domain, transition, tie and popularity, from a table of ranks.

    "popularity" has three bands of targets by their item's training count, cut at its terciles over
    targets: `tail` below the first, `head` above the second.
    """
    rank = table["rank"].to_numpy()
    domain = table["domain"].to_numpy()
    switch = table["switch"].to_numpy()
    tied = table["tied"].to_numpy()
    popularity = table["popularity"].to_numpy()
    low, high = np.quantile(popularity, [1 / 3, 2 / 3], method="lower")
    band = (popularity > low).astype(int) + (popularity > high)
    return {
        "all": ranking_metrics(rank, ks),
        "domain": {name: ranking_metrics(rank[domain == name], ks) for name in domains},
        "transition": {
            "same": ranking_metrics(rank[~switch], ks),
            "switch": ranking_metrics(rank[switch], ks),
        },
        "tied": {"tied": ranking_metrics(rank[tied], ks), "untied": ranking_metrics(rank[~tied], ks)},
        "popularity": {name: ranking_metrics(rank[band == index], ks) for index, name in enumerate(POPULARITY_BANDS)},
    }


def hr_by_cutoff(figures: Mapping[str, Any], ks: Sequence[int]) -> list[dict[str, float]]:
    """The rows of metrics/cutoffs.csv from the figures of metrics/test.json: k, and HR@K of the model and of each
    baseline in a column of its own, so that a plot has one series a method.
    """
    methods = {MODEL: figures["all"], **figures["baselines"]}
    return [{"k": k} | {name: metrics[f"hr_{k}"] for name, metrics in methods.items()} for k in ks]
