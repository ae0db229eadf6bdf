"""The text files of metrics/, computed from the outputs of the earlier stages.

They are small and in git, so each commit and experiment has its figures. Only summary.json is a DVC metric: the
other files have too many figures for the tables of `dvc metrics` and `dvc exp show`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tapestry.core.arrow import to_numpy
from tapestry.core.atomic import write_csv, write_json
from tapestry.core.checkout import read_json
from tapestry.core.errors import TapestryError
from tapestry.evaluation.metrics import ranking_metrics
from tapestry.evaluation.ranks import read_baselines, read_ranks
from tapestry.figures.breakdowns import compare, hr_by_cutoff

_OF_TEST = ("hr_10", "hr_100", "ndcg_10", "ndcg_100", "mrr")
_OF_DATA = ("users", "items", "interactions", "delta")


@dataclass(frozen=True)
class Results:
    """Outputs of the earlier stages, from which the figures are computed.

    statistics: as sessionize returns them. training: see `Training.record`. ranks, baselines: see `ranks_table`.
    """

    statistics: Mapping[str, Any]
    training: Mapping[str, Any]
    ranks: pa.Table
    baselines: Mapping[str, pa.Table]


def read_results(statistics: Path, models: Path, ranks: Path, baselines: Path, names: Sequence[str]) -> Results:
    """Read the results; `models` and `baselines` are folders, of the latter only the baselines `names` are read.

    Raises:
        TapestryError: a file is missing or damaged, or a baseline ranks other targets than the model.
    """
    table = read_ranks(ranks)
    return Results(
        statistics=_read(statistics, ("all", "domain"), "sessionize"),
        training=_read(models / "training.json", ("summary", "curve"), "train"),
        ranks=table,
        baselines=read_baselines(baselines, names, table),
    )


def write_figures(results: Results, ks: Sequence[int], sampled_negatives: int | None, folder: Path) -> dict[str, Any]:
    """Write data.json, train.json, curve.csv, test.json, cutoffs.csv and summary.json to `folder`.

    Args:
        ks: the cut-offs of HR@K and NDCG@K in test.json and cutoffs.csv.
        sampled_negatives: if not None, test.json has the figures among that number of sampled negatives, too.

    Returns:
        The contents of test.json.
    """
    test = compare(results.ranks, results.baselines, ks, list(results.statistics["domain"]), sampled_negatives)
    write_json(folder / "data.json", results.statistics)
    write_json(folder / "train.json", results.training["summary"])
    write_csv(folder / "curve.csv", results.training["curve"])
    write_csv(folder / "cutoffs.csv", hr_by_cutoff(test, ks))
    write_json(folder / "test.json", test)
    write_json(folder / "summary.json", summary(results))
    return test


def summary(results: Results) -> dict[str, float | None]:
    """Return the contents of summary.json. Its cut-offs don't depend on `evaluate.ks`.

    `gain_hr_100` is HR@100 of the model / HR@100 of the best baseline − 1; None without a baseline, or if all
    have HR@100 = 0.
    """
    ks = (10, 100)
    test = ranking_metrics(to_numpy(results.ranks["rank"]), ks)
    others = (ranking_metrics(to_numpy(ranked["rank"]), ks)["hr_100"] for ranked in results.baselines.values())
    best = max(others, default=0.0)
    return {
        **{name: test[name] for name in _OF_TEST},
        "gain_hr_100": test["hr_100"] / best - 1 if best else None,
        "best_epoch": results.training["summary"]["best"]["epoch"],
        **{name: results.statistics["all"][name] for name in _OF_DATA},
    }


def _read(path: Path, keys: Sequence[str], stage: str) -> dict[str, Any]:
    """Read a JSON object that has these keys; `stage` is the DVC stage that writes it."""
    value = read_json(path, stage)
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if missing:
        raise TapestryError(f"{path}: damaged (without {', '.join(missing)}); run `dvc repro --force {stage}`")
    return dict(value)
