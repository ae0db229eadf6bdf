"""Tables of a study: means over seeds and targets, and changes against another model, with intervals."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tapestry.core.arrays import Floats, Integers
from tapestry.evaluation.comparison import relative_changes
from tapestry.evaluation.ranks import read_ranks

SHOWN = {"hr_10": "HR@10", "hr_100": "HR@100", "ndcg_100": "NDCG@100", "mrr": "MRR"}  # columns of a page's tables
METRICS = ("hr_1", "hr_10", "hr_100", "ndcg_100", "mrr")
_DIGITS = 5
_EVERY = slice(None)


def read_trials(folder: Path) -> list[pa.Table]:
    """Read the ranks of each seed; `folder` has a folder a seed, see `run_trial`."""
    return [read_ranks(seed / "ranks.parquet") for seed in sorted(folder.iterdir(), key=lambda path: int(path.name))]


def metric_values(tables: Sequence[pa.Table]) -> dict[str, Floats]:
    """Compute each metric of each seed and target, (S, N). The tables have the same targets."""
    rank_SN = np.stack([table["rank"].to_numpy() for table in tables])
    return {
        **{f"hr_{k}": (rank_SN <= k).astype(float) for k in (1, 10, 100)},
        "ndcg_100": np.where(rank_SN <= 100, 1 / np.log2(rank_SN + 1.0), 0.0),
        "mrr": 1 / rank_SN,
    }


def users_of(table: pa.Table) -> Integers:
    """Number the users of a table of ranks: the user of each target (N,), from 0."""
    user_id = table["user_id"].to_numpy(zero_copy_only=False).astype(str)
    return np.unique(user_id, return_inverse=True)[1]


def summary_row(values: Mapping[str, Floats]) -> dict[str, Any]:
    """Return the number of seeds, and mean and standard deviation over seeds of each metric."""
    row: dict[str, Any] = {"seeds": len(values["mrr"])}
    for metric in METRICS:
        of_seeds = values[metric].mean(1)
        row[metric] = short(of_seeds.mean())
        row[f"{metric}_sd"] = short(of_seeds.std(ddof=1)) if len(of_seeds) > 1 else ""
    return row


def change_row(ours: Mapping[str, Floats], theirs: Mapping[str, Floats], user_N: Integers) -> dict[str, Any]:
    """Return the relative change of each metric against another model, with its 95 % interval.

    A figure is empty where the other model has no hit at all in some of the samples.
    """
    row: dict[str, Any] = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        changes = relative_changes(ours, theirs, user_N)
    for metric, change in changes.items():
        of_metric = dataclasses.asdict(change)
        row |= {f"{metric}_{name}": short(x) if np.isfinite(x) else "" for name, x in of_metric.items()}
    return row


def pair_rows(
    values: Mapping[str, Mapping[str, Floats]], pairs: Iterable[Sequence[str]], user_N: Integers
) -> list[dict[str, Any]]:
    """Return a row of `change_row` for each pair of models whose values are there, with both names.

    Args:
        values: model → those of `metric_values`.
        pairs: a model, and the one that it is compared with (`recipe` and `against` in the row).
        user_N: see `change_row`.
    """
    return [
        {"recipe": recipe, "against": other} | change_row(values[recipe], values[other], user_N)
        for recipe, other in pairs
        if {recipe, other} <= values.keys()
    ]


def group_rows(
    values: Mapping[str, Mapping[str, Floats]],
    column: str,
    against: str,
    user_N: Integers,
    inside_N: npt.NDArray[np.bool_] | slice = _EVERY,
) -> list[dict[str, Any]]:
    """Return a row for each of `values`, of the targets inside a group: their number, means, and changes.

    Args:
        values: the metrics of each model, which is named in `column`.
        against: the model with which all are compared.
        user_N: the user of each target.
    """
    of_group = {name: {metric: x[:, inside_N] for metric, x in found.items()} for name, found in values.items()}
    user = np.unique(user_N[inside_N], return_inverse=True)[1]
    return [
        {"targets": len(user), column: name, **summary_row(found), **change_row(found, of_group[against], user)}
        for name, found in of_group.items()
    ]


def short(value: float) -> float:
    """Round a figure for a table."""
    return round(float(value), _DIGITS)


def read_csv(file: Path) -> list[dict[str, str]]:
    """Read a table of results; all values are text."""
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def short_figure(value: str) -> str:
    """Format a metric for a table of Markdown, as .1234."""
    return f"{float(value):.4f}".removeprefix("0")


def short_interval(row: Mapping[str, str], metric: str) -> str:
    """Format the change of a metric in a row of `change_row`, in percent, as +1.2 [-0.3, +2.7]."""
    change, low, high = (f"{100 * float(row[f'{metric}_{part}']):+.1f}" for part in ("change", "low", "high"))
    return f"{change} [{low}, {high}]"


def print_means(
    title: str, rows: Mapping[str, Mapping[str, str]], names: Mapping[str, str], without_chance: Collection[str] = ()
) -> None:
    """Print the means of models as Markdown.

    Args:
        rows: model → row of `summary_row`.
        names: model → its name in the table, in order. Models without a row are left out.
        without_chance: models whose ranks depend on no seed; the table has no number of seeds for them.
    """
    print_table(
        [title, "seeds", *SHOWN.values()],
        [
            [name, "" if model in without_chance else rows[model]["seeds"], *_figures(rows[model])]
            for model, name in names.items()
            if model in rows
        ],
    )


def print_changes(title: str, rows: Mapping[str, Mapping[str, str]], names: Mapping[str, str]) -> None:
    """Print changes against one other model as Markdown; `rows` are of `change_row`, else as in `print_means`."""
    print_table(
        [title, *SHOWN.values()],
        [[name, *_intervals(rows[model])] for model, name in names.items() if model in rows],
    )


def print_pairs(title: str, rows: Iterable[Mapping[str, str]]) -> None:
    """Print changes as Markdown; each row also has the two models, `recipe` and `against`."""
    print_table(
        [title, "against", *SHOWN.values()],
        [[f"`{row['recipe']}`", f"`{row['against']}`", *_intervals(row)] for row in rows],
    )


def _figures(row: Mapping[str, str]) -> list[str]:
    return [short_figure(row[metric]) for metric in SHOWN]


def _intervals(row: Mapping[str, str]) -> list[str]:
    return [short_interval(row, metric) for metric in SHOWN]


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of Markdown."""
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |")
    print()
