"""metrics/ranks.parquet and the figures of metrics/test.json, which it can recompute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tapestry.atomic import atomic_file
from tapestry.data.sequences import Sequences
from tapestry.errors import TapestryError
from tapestry.evaluation.metrics import ranking_metrics
from tapestry.evaluation.ranking import Integers, Ranks

POPULARITY_BANDS = ("tail", "middle", "head")


def ranks_table(sequences: Sequences, targets: Integers, ranks: Ranks) -> pa.Table:
    """One row a target: user_id, item_id, domain (text); rank, candidates, history, popularity (int64);
    switch, tied (bool): the target's domain differs from, its timestamp equals, that of the one before.
    """
    item = sequences.item[targets]
    names = np.array([domain.name for domain in sequences.domains], dtype=object)
    return pa.table(
        {
            "user_id": sequences.user_id[sequences.owner[targets]],
            "item_id": sequences.item_id[item],
            "domain": names[sequences.domain[targets]],
            "rank": ranks.rank,
            "candidates": ranks.candidates,
            "switch": sequences.domain[targets] != sequences.domain[targets - 1],
            "tied": sequences.timestamp[targets] == sequences.timestamp[targets - 1],
            "history": targets - sequences.offsets[sequences.owner[targets]],
            "popularity": sequences.train_count[item],
        }
    )


def summarise(table: pa.Table, ks: Sequence[int], domains: Sequence[str]) -> dict[str, Any]:
    """The contents of metrics/test.json from a table of ranks.

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


def write_ranks(table: pa.Table, path: Path) -> None:
    """Write a table of ranks as Parquet, atomically."""
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_ranks(path: Path) -> pa.Table:
    """Read a table of ranks.

    Raises:
        TapestryError: there is none.
    """
    if not path.is_file():
        raise TapestryError(f"{path}: no ranks; run `dvc repro`")
    return pq.read_table(path)


def cutoff_rows(metrics: Mapping[str, Mapping[str, float]], ks: Sequence[int]) -> list[dict[str, Any]]:
    """{model: M} as rows (model, k, hr, ndcg), for plots over K."""
    return [
        {"model": name, "k": k, "hr": figures[f"hr_{k}"], "ndcg": figures[f"ndcg_{k}"]}
        for name, figures in metrics.items()
        for k in ks
    ]
