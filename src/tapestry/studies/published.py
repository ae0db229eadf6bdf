"""Figures of trials beside those that a paper published, for the same targets.

A paper reports a mean, and perhaps the standard deviation over its seeds, but not the rank of each target. So the
interval of a comparison has the chance in our seeds and in the users, and takes the paper's mean as exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tapestry.core.arrays import Floats
from tapestry.core.errors import TapestryError
from tapestry.evaluation.comparison import relative_changes
from tapestry.evaluation.sampled import sampled_values
from tapestry.studies.results import read_csv, short, users_of


@dataclass(frozen=True)
class Published:
    """A figure of a paper: of a domain's targets, a fraction of 1, with its standard deviation over seeds if known."""

    domain: str
    method: str
    """The name of the model, or of another method, whose figure it is."""
    metric: str
    """`hr_K`, `ndcg_K` or `mrr`, of a ranking of the whole domain (`tapestry.evaluation.metrics`); with a suffix such
    as `_of_999`, among sampled negatives (`tapestry.evaluation.sampled`)."""
    mean: float
    sd: float | None


def read_published(file: Path, data: str) -> list[Published]:
    """Read the figures of one data set from a CSV file of the columns data, domain, method, metric, mean and sd.

    Raises:
        TapestryError: the file has none of this data set.
    """
    rows = [row for row in read_csv(file) if row["data"] == data]
    if not rows:
        raise TapestryError(f"{file}: no figures of {data}")
    return [
        Published(
            row["domain"], row["method"], row["metric"], float(row["mean"]), float(row["sd"]) if row["sd"] else None
        )
        for row in rows
    ]


def compare_with_published(tables: Sequence[pa.Table], published: Sequence[Published]) -> list[dict[str, Any]]:
    """Return a row for each published figure: it, ours over seeds, and the relative change with its 95 % interval.

    Args:
        tables: the ranks of each seed (`tapestry.evaluation.ranks`), of the same targets.
    """
    domain = tables[0]["domain"].to_numpy(zero_copy_only=False)
    rows = []
    for name, method in dict.fromkeys((figure.domain, figure.method) for figure in published):
        here = domain == name
        user = np.unique(users_of(tables[0])[here], return_inverse=True)[1]
        wanted = [figure for figure in published if (figure.domain, figure.method) == (name, method)]
        values = _values([table.filter(pa.array(here)) for table in tables], wanted)
        theirs = {figure.metric: np.full((1, len(user)), figure.mean) for figure in wanted}
        changes = relative_changes(values, theirs, user)
        for figure in wanted:
            of_seeds = values[figure.metric].mean(1)
            change = changes[figure.metric]
            rows.append(
                {
                    "domain": name,
                    "method": method,
                    "metric": figure.metric,
                    "targets": len(user),
                    "published": figure.mean,
                    "published_sd": "" if figure.sd is None else figure.sd,
                    "seeds": len(tables),
                    "ours": short(of_seeds.mean()),
                    "ours_sd": short(of_seeds.std(ddof=1)) if len(of_seeds) > 1 else "",
                    "change": short(change.change),
                    "low": short(change.low),
                    "high": short(change.high),
                }
            )
    return rows


def _values(tables: Sequence[pa.Table], wanted: Sequence[Published]) -> Mapping[str, Floats]:
    """Return the value of each wanted figure for each seed and target, (S, N)."""
    found: dict[str, list[Floats]] = {figure.metric: [] for figure in wanted}
    negatives = {int(metric.partition("_of_")[2]) for metric in found if "_of_" in metric}
    ks = sorted({int(metric.split("_")[1]) for metric in found if not metric.startswith("mrr")} or {1})
    for table in tables:
        rank, candidates = table["rank"].to_numpy(), table["candidates"].to_numpy()
        values: dict[str, Floats] = {"mrr": 1.0 / rank}
        for k in ks:
            values |= {f"hr_{k}": (rank <= k) * 1.0, f"ndcg_{k}": np.where(rank <= k, 1 / np.log2(rank + 1.0), 0.0)}
        for number in negatives:
            values |= sampled_values(rank, candidates, number, ks)
        for metric, of_seeds in found.items():
            of_seeds.append(values[metric])
    return {metric: np.stack(of_seeds) for metric, of_seeds in found.items()}
