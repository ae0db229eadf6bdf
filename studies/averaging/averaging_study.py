"""Stages of the study: averaging_study.py train SPLIT RECIPE SEED | results | show."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tapestry.core.yaml_file import read_yaml
from tapestry.sequences.reader import read_sequences
from tapestry.studies.command import run_command
from tapestry.studies.recipe_results import write_recipe_results
from tapestry.studies.results import print_means, print_pairs, read_csv, read_trials
from tapestry.studies.trials import run_recipe

HERE = Path(__file__).resolve().parent
PARAMS = HERE / "params.yaml"
RUNS = HERE / "runs"
QUALITY = HERE.parent / "quality"
RUNS_WITHOUT = HERE.parent / "recent_counts/runs"
AGAINST = "hstu_counts"
PAIRS = (
    ("hstu_average", "hstu_counts"),
    ("hybrid_average", "hybrid_counts"),
    ("hybrid_average", "hstu_average"),
    ("hybrid_average", "hstu_without_levers"),
    ("hstu_average_refit", "hstu_counts_refit"),
    ("hybrid_average_refit", "hybrid_counts_refit"),
    ("hybrid_average_refit", "hstu_average_refit"),
)
NAMES = {  # in the order of the tables
    "hybrid_average_refit": "default recipe, averaged, trained anew on validation too",
    "hstu_average_refit": "HSTU + ALiBi, averaged, trained anew on validation too",
    "hybrid_counts_refit": "default recipe, trained anew on validation too",
    "hstu_counts_refit": "HSTU + ALiBi, trained anew on validation too",
    "hybrid_average": "default recipe, averaged",
    "hstu_average": "HSTU + ALiBi, averaged",
    "hybrid_counts": "default recipe",
    "hstu_counts": "HSTU + ALiBi",
    "hstu_without_levers": "HSTU + ALiBi without levers and recent counts",
}
SPLITS = {"leave_one_out": "Leave-one-out", "temporal": "Temporal split"}


def train(split: str, recipe: str, seed: str) -> None:
    """Train a recipe, and rank the test targets."""
    sequences = read_sequences(QUALITY / "data" / split / "sequences")
    changes = read_yaml(PARAMS)["recipes"][recipe]
    run_recipe(sequences, changes, int(seed), QUALITY / "params.yaml", RUNS / split / recipe / seed)


def results() -> None:
    """Write results.csv (means, and changes against HSTU), changes.csv (of `PAIRS`) and the picture."""
    folders = {split: [runs / split / name for name in NAMES for runs in (RUNS, RUNS_WITHOUT)] for split in SPLITS}
    tables = {
        split: {folder.name: read_trials(folder) for folder in of_split if folder.is_dir()}
        for split, of_split in folders.items()
    }
    write_recipe_results(HERE, tables, reversed(NAMES), AGAINST, PAIRS)


def show() -> None:
    """Print the page's tables from results.csv and changes.csv."""
    means, changes = read_csv(HERE / "results.csv"), read_csv(HERE / "changes.csv")
    for split, title in SPLITS.items():
        rows = {row["recipe"]: row for row in means if row["data"] == split}
        print_means(f"{title}, recent counts", rows, NAMES)
        print_pairs(f"{title}: change, %", [row for row in changes if row["data"] == split])


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {function.__name__: function for function in (train, results, show)}
    run_command(sys.argv[1:], commands)
