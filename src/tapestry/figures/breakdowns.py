"""Test metrics over all targets and by group of targets, computed from tables of ranks."""

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
    """Return the contents of metrics/test.json: `summarise` of the model's ranks, and each baseline's metrics."""
    figures = summarise(table, ks, domains)
    figures["baselines"] = {name: ranking_metrics(ranked["rank"].to_numpy(), ks) for name, ranked in baselines.items()}
    return figures


def summarise(table: pa.Table, ks: Sequence[int], domains: Sequence[str]) -> dict[str, Any]:
    """Compute metrics over all targets and by domain, transition, tie and popularity, from a table of ranks.

    "popularity" has three bands of targets, by the training count of their item. The terciles of these counts over
    targets separate the bands: `tail` up to the first, `middle` up to the second, `head` above it.
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


def hr_by_cutoff(figures: Mapping[str, Any], ks: Sequence[int]) -> list[dict[str, Any]]:
    """Return the rows of metrics/cutoffs.csv, from the contents of metrics/test.json: method, k and HR@K.

    A method is the model or a baseline. Columns are the same whichever baselines ran, as dvc.yaml names those of plots.
    """
    methods = {MODEL: figures["all"], **figures["baselines"]}
    return [{"method": name, "k": k, "hr": row[f"hr_{k}"]} for name, row in methods.items() for k in ks]
