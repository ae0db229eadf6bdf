"""Stages of the study: peers_study.py trial METHOD NUMBER | train RECIPE SEED | results | show."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tapestry.baselines.als import Als
from tapestry.baselines.baselines import ItemKnn
from tapestry.baselines.interface import Baseline, Requests, without_test
from tapestry.baselines.ranks import rank_by_scores
from tapestry.baselines.rectools_models import RecTools
from tapestry.baselines.settings import BaselineSettings, PeerSettings, baseline_settings
from tapestry.core.atomic import atomic_folder, write_csv, write_json
from tapestry.core.splits import TEST, VALIDATION
from tapestry.core.yaml_file import read_yaml
from tapestry.evaluation.metrics import ranking_metrics
from tapestry.evaluation.ranks import ranks_table, read_ranks, write_ranks
from tapestry.evaluation.settings import EvaluateSettings
from tapestry.sequences.reader import Sequences, read_sequences
from tapestry.studies.command import run_command
from tapestry.studies.results import (
    change_row,
    metric_values,
    print_changes,
    print_means,
    print_table,
    read_csv,
    read_trials,
    short,
    short_figure,
    summary_row,
    users_of,
)
from tapestry.studies.trials import changed_section, run_recipe

HERE = Path(__file__).resolve().parent
PARAMS = HERE / "params.yaml"
RUNS = HERE / "runs"
QUALITY = HERE.parent / "quality"
METHODS: dict[str, Callable[[], Baseline]] = {
    "sasrec": lambda: RecTools("sasrec"),
    "hstu_rectools": lambda: RecTools("hstu"),
    "als": Als,
    "item_knn": ItemKnn,
}
NAMES = {  # of recipes and methods, in the order of the tables
    "hybrid_fewer": "mixed recipe",
    "hstu": "HSTU + ALiBi, without the levers",
    "sasrec": "RecTools' SASRec",
    "hstu_rectools": "RecTools' HSTU, with its bias by relative time",
    "als": "implicit's ALS",
    "item_knn": "item-kNN",
}
AGAINST = "hybrid_fewer"  # what the others are compared with
_CHOSEN_BY = "ndcg_10"


def trial(method: str, number: str) -> None:
    """Fit a method with the settings of a trial; write its figures on validation and its ranks of the test targets."""
    sequences, settings = _sequences(), _settings(method, number)
    known = without_test(sequences)
    torch.set_num_threads(settings.threads)
    fitted = METHODS[method]()
    fitted.fit(known, settings)
    ranks = {}
    for split, read in ((VALIDATION, known), (TEST, sequences)):
        targets = read.targets(split)
        score = fitted.scorer(Requests(read, targets))
        ranks[split] = rank_by_scores(method, score, read, targets, settings)
    found = ranking_metrics(ranks[VALIDATION].rank, (10, 100))
    epoch = {"best_epoch": fitted.best_epoch} if isinstance(fitted, RecTools) else {}
    with atomic_folder(RUNS / method / number) as folder:
        write_json(folder / "validation.json", found | epoch)
        write_ranks(ranks_table(sequences, sequences.targets(TEST), ranks[TEST]), folder / "ranks.parquet")


def train(recipe: str, seed: str) -> None:
    """Train a recipe of the study of quality, and rank the test targets."""
    params = QUALITY / "params.yaml"
    run_recipe(_sequences(), read_yaml(params)["recipes"][recipe], int(seed), params, RUNS / recipe / seed)


def results() -> None:
    """Write trials.csv (settings, and figures on validation) and results.csv (the chosen trials on test)."""
    trials: list[dict[str, Any]] = []
    chosen: dict[str, str] = {}
    for method, settings in read_yaml(PARAMS)["trials"].items():
        for number, changes in settings.items():
            found = json.loads((RUNS / method / str(number) / "validation.json").read_text(encoding="utf-8"))
            written = " ".join(f"{key}={value}" for key, value in changes.items())
            row = {"method": method, "trial": number, "settings": written, "best_epoch": found.get("best_epoch", "")}
            trials.append(row | {metric: short(found[metric]) for metric in ("hr_100", "ndcg_10", "mrr")})
        best = max((row for row in trials if row["method"] == method), key=lambda row: row[_CHOSEN_BY])
        chosen[method] = str(best["trial"])
    tables = {recipe: read_trials(RUNS / recipe) for recipe in read_yaml(PARAMS)["recipes"]}
    tables |= {method: [read_ranks(RUNS / method / number / "ranks.parquet")] for method, number in chosen.items()}
    values = {name: metric_values(of_seeds) for name, of_seeds in tables.items()}
    users = users_of(tables[AGAINST][0])
    rows = [
        {"method": name, "trial": chosen.get(name, "")} | summary_row(found) | change_row(found, values[AGAINST], users)
        for name, found in values.items()
    ]
    write_csv(HERE / "trials.csv", trials)
    write_csv(HERE / "results.csv", rows)


def show() -> None:
    """Print the tables of the page from results.csv and trials.csv."""
    means = {row["method"]: row for row in read_csv(HERE / "results.csv")}
    print_means("Test", means, NAMES)
    others = {method: row for method, row in means.items() if method != AGAINST}
    print_changes(f"Change against the {NAMES[AGAINST]}, %", others, NAMES)
    print_table(
        ["Validation", "settings", "best epoch", "HR@100", "NDCG@10", "MRR"],
        [
            [NAMES[row["method"]], f"`{row['settings']}`", row["best_epoch"]]
            + [short_figure(row[metric]) for metric in ("hr_100", "ndcg_10", "mrr")]
            for row in read_csv(HERE / "trials.csv")
        ],
    )


def _sequences() -> Sequences:
    return read_sequences(QUALITY / "data/leave_one_out/sequences")


def _settings(method: str, number: str) -> BaselineSettings:
    """Return the settings of a trial: what it changes in the sections `peers` and `evaluate`."""
    changes = read_yaml(PARAMS)["trials"][method][int(number)]
    sections = {"peers": {}, "evaluate": {}} | {"evaluate" if "neighbours" in changes else "peers": changes}
    return baseline_settings(
        changed_section(EvaluateSettings, "evaluate", sections["evaluate"], PARAMS),
        changed_section(PeerSettings, "peers", sections["peers"], PARAMS),
    )


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {
        function.__name__: function for function in (trial, train, results, show)
    }
    run_command(sys.argv[1:], commands)
