"""Stages of the study: tuning_study.py short RECIPE TRIAL | long RECIPE PLACE | tuned RECIPE SEED | results | show."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tapestry.core.atomic import write_csv
from tapestry.core.settings import load_section
from tapestry.core.splits import TEST, VALIDATION
from tapestry.core.yaml_file import read_yaml
from tapestry.evaluation.ranks import read_ranks
from tapestry.sequences.reader import read_sequences
from tapestry.studies.command import run_command
from tapestry.studies.results import (
    change_row,
    metric_values,
    print_table,
    read_csv,
    read_trials,
    short,
    short_figure,
    short_interval,
    summary_row,
    users_of,
)
from tapestry.studies.trials import run_recipe

HERE = Path(__file__).resolve().parent
PARAMS = HERE / "params.yaml"
QUALITY = HERE.parent / "quality"
SHARED = QUALITY / "params.yaml"
RUNS = HERE / "runs"
NAMES = {"hybrid_state": "mixed recipe", "hstu_items": "HSTU + ALiBi with the same levers"}
AGAINST = "hstu_items"  # what the tuned recipe is compared with
_SETTINGS = {  # columns of the table of trials
    "width": "width",
    "layers": "layers",
    "window": "window",
    "dropout": "dropout",
    "learning_rate": "learning rate",
    "temperature": "temperature",
    "negatives": "negatives",
    "weight_decay": "weight decay",
    "batch_users": "users a step",
    "auxiliary_weight": "λ",
}


def drawn_settings(
    trial: int, space: Mapping[str, Mapping[str, list[Any]]], trials: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Draw a value of each key of `space`, a section of lists; nothing for trial 0, the recipe as it is.

    A Latin hypercube: over the drawn trials, 1 to `trials`, the values of a key are equally frequent.
    """
    drawn: dict[str, dict[str, Any]] = {"model": {}, "train": {}}
    if trial == 0:
        return drawn
    generator = np.random.default_rng(seed)
    for section, keys in space.items():
        for key, values in keys.items():
            drawn[section][key] = values[generator.permutation(trials)[trial - 1] % len(values)]
    drawn["model"]["state_dim"] = drawn["model"]["width"]
    return drawn


def short_trial(recipe: str, trial: str) -> None:
    """Train with the settings of a trial for a few epochs, and rank the validation targets."""
    epochs = load_section(int, "short_epochs", PARAMS)
    _run(recipe, int(trial), _seed(), {"epochs": epochs, "patience": epochs}, RUNS / "short" / recipe / trial)


def long_trial(recipe: str, place: str) -> None:
    """Train with the settings of the short trial at this place, from 1, and rank the validation targets."""
    trial = _by_validation(RUNS / "short" / recipe)[int(place) - 1]
    _run(recipe, trial, _seed(), {}, RUNS / "long" / recipe / place)


def tuned(recipe: str, seed: str) -> None:
    """Train with the settings of the best long trial and another seed, and rank the test targets."""
    _run(recipe, _best(recipe), int(seed), {}, RUNS / "tuned" / recipe / seed, TEST)


def _run(recipe: str, trial: int, seed: int, train: Mapping[str, Any], folder: Path, split: int = VALIDATION) -> None:
    """Train a recipe with the settings of a trial, and rank the targets of a split."""
    changed = _changed(recipe, trial)
    changed["train"] |= train
    run_recipe(read_sequences(QUALITY / "data/leave_one_out/sequences"), changed, seed, SHARED, folder, split)


def _seed() -> int:
    return load_section(int, "seed", PARAMS)


def _changed(recipe: str, trial: int) -> dict[str, dict[str, Any]]:
    """Return what the recipe and the trial change in the sections `model` and `train`."""
    of_recipe = read_yaml(SHARED)["recipes"][recipe]
    params = read_yaml(PARAMS)
    drawn = drawn_settings(trial, params["space"], params["drawn_trials"], params["seed"])
    return {section: of_recipe[section] | drawn[section] for section in ("model", "train")}


def _by_validation(folder: Path) -> list[int]:
    """Return the numbers of the trials in a folder, the one with the best validation NDCG@10 first."""
    ndcg = {int(path.name): _validation_row(read_ranks(path / "ranks.parquet"))["ndcg_10"] for path in folder.iterdir()}
    return sorted(ndcg, key=lambda number: (-ndcg[number], number))


def _best(recipe: str) -> int:
    """Return the trial whose long training has the best validation NDCG@10."""
    best_place = _by_validation(RUNS / "long" / recipe)[0]
    return _by_validation(RUNS / "short" / recipe)[best_place - 1]


def _validation_row(table: pa.Table) -> dict[str, float]:
    """Compute the figures of a trial from its ranks of the validation targets."""
    rank_N = table["rank"].to_numpy()
    return {
        "hr_100": short((rank_N <= 100).mean()),
        "ndcg_10": short(np.where(rank_N <= 10, 1 / np.log2(rank_N + 1.0), 0.0).mean()),
        "mrr": short((1 / rank_N).mean()),
    }


def results() -> None:
    """Write trials.csv (settings and figures on validation) and results.csv (the tuned recipes on test)."""
    trials: list[dict[str, Any]] = []
    for recipe in NAMES:
        ordered = _by_validation(RUNS / "short" / recipe)
        for trial in ordered:
            changed = _changed(recipe, trial)
            both = {section: read_yaml(SHARED)[section] | changed[section] for section in ("model", "train")}
            row = {"recipe": recipe, "trial": trial} | {key: (both["model"] | both["train"])[key] for key in _SETTINGS}
            row |= _validation_row(read_ranks(RUNS / "short" / recipe / str(trial) / "ranks.parquet"))
            place = RUNS / "long" / recipe / str(ordered.index(trial) + 1)
            long = _validation_row(read_ranks(place / "ranks.parquet")) if place.is_dir() else {}
            trials.append(row | {f"long_{key}": long.get(key, "") for key in ("hr_100", "ndcg_10", "mrr")})
    tables = {recipe: read_trials(RUNS / "tuned" / recipe) for recipe in NAMES}
    values = {recipe: metric_values(of_seeds) for recipe, of_seeds in tables.items()}
    rows = [
        {"recipe": recipe, "trial": _best(recipe)}
        | summary_row(found)
        | change_row(found, values[AGAINST], users_of(tables[recipe][0]))
        for recipe, found in values.items()
    ]
    write_csv(HERE / "trials.csv", trials)
    write_csv(HERE / "results.csv", rows)


def show() -> None:
    """Print the README's tables from trials.csv and results.csv."""
    columns = {"hr_10": "HR@10", "hr_100": "HR@100", "ndcg_100": "NDCG@100", "mrr": "MRR"}
    rows = {row["recipe"]: row for row in read_csv(HERE / "results.csv")}
    means = [
        [f"{name}, tuned", rows[recipe]["seeds"], *(short_figure(rows[recipe][metric]) for metric in columns)]
        for recipe, name in NAMES.items()
    ]
    changes = [
        [f"change of the {name}, %", "", *(short_interval(rows[recipe], metric) for metric in columns)]
        for recipe, name in NAMES.items()
        if recipe != AGAINST
    ]
    print_table(["Test", "seeds", *columns.values()], means + changes)
    trials = read_csv(HERE / "trials.csv")
    for recipe, name in NAMES.items():
        print_table(
            [f"Validation: {name}", *list(_SETTINGS.values())[1:], "NDCG@10", "HR@100", "long: NDCG@10", "HR@100"],
            [
                [
                    f"width {row['width']}",
                    *(row[key] for key in list(_SETTINGS)[1:]),
                    *(short_figure(row[key]) for key in ("ndcg_10", "hr_100")),
                    *(short_figure(row[key]) if row[key] else "" for key in ("long_ndcg_10", "long_hr_100")),
                ]
                for row in trials
                if row["recipe"] == recipe
            ],
        )


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {
        "short": short_trial,
        "long": long_trial,
        "tuned": tuned,
        "results": results,
        "show": show,
    }
    run_command(sys.argv[1:], commands)
