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
from tapestry.errors import TapestryError, one_line, shown
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
        TapestryError: there is none, or the file is damaged.
    """
    if not path.is_file():
        raise TapestryError(f"{path}: no ranks; run `dvc repro`")
    try:
        return pq.read_table(path)
    except (OSError, ValueError) as error:
        raise TapestryError(f"{path}: damaged ({one_line(str(error))}); remove it and run `dvc repro`") from error


def read_baselines(folder: Path, table: pa.Table) -> dict[str, pa.Table]:
    """The ranks of each baseline in `folder`, which must be of the targets of `table`, among as many candidates.

    Raises:
        TapestryError: there is none, a file is damaged, or its targets are others.
    """
    baselines = {path.stem: read_ranks(path) for path in sorted(folder.glob("*.parquet"))}
    if not baselines:
        raise TapestryError(f"{folder}: no ranks; run `dvc repro baselines`")
    for name, ranked in baselines.items():
        wrong = _difference(ranked, table)
        if wrong:
            raise TapestryError(
                f"{folder / name}.parquet: not the ranks of data/sequences' test targets: {wrong}; "
                "run `dvc repro baselines`"
            )
    return baselines


def _difference(ranked: pa.Table, expected: pa.Table) -> str | None:
    """What of the targets differs first, with both values; None if nothing does."""
    if ranked.schema != expected.schema:
        return f"columns {one_line(str(ranked.column_names))} of types {one_line(str(ranked.schema.types))}"
    if len(ranked) != len(expected):
        return f"{len(ranked)} targets, expected {len(expected)}"
    for key in (name for name in expected.column_names if name != "rank"):
        ours, theirs = (table[key].to_numpy(zero_copy_only=False) for table in (expected, ranked))
        (places,) = np.nonzero(ours != theirs)
        if len(places):
            row = int(places[0])
            return f"{key} of row {row + 1} is {shown(theirs[row])}, expected {shown(ours[row])}"
    rank = ranked["rank"].to_numpy()
    if ((rank < 1) | (rank > ranked["candidates"].to_numpy())).any():
        return "a rank is not between 1 and the candidates"
    return None


def cutoff_rows(metrics: Mapping[str, Mapping[str, float]], ks: Sequence[int]) -> list[dict[str, Any]]:
    """{model: M} as rows (model, k, hr, ndcg), for plots over K."""
    return [
        {"model": name, "k": k, "hr": figures[f"hr_{k}"], "ndcg": figures[f"ndcg_{k}"]}
        for name, figures in metrics.items()
        for k in ks
    ]
