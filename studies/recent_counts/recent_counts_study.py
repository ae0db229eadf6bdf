"""Stages of the study: recent_counts_study.py train SPLIT RECIPE SEED | counts_alone SPLIT | results | show."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tapestry.baselines.baselines import RecentCounted
from tapestry.baselines.ranks import rank_baseline
from tapestry.baselines.settings import PeerSettings, baseline_settings
from tapestry.core.atomic import atomic_folder
from tapestry.core.settings import load_section
from tapestry.core.splits import TEST
from tapestry.core.yaml_file import read_yaml
from tapestry.evaluation.ranks import ranks_table, read_ranks, write_ranks
from tapestry.evaluation.scoring import rank_by_model
from tapestry.evaluation.settings import EvaluateSettings
from tapestry.model.network import Recommender
from tapestry.sequences.reader import Sequences, read_sequences
from tapestry.studies.command import run_command
from tapestry.studies.recipe_results import write_recipe_results
from tapestry.studies.results import print_means, print_pairs, read_csv, read_trials
from tapestry.studies.trials import run_recipe

HERE = Path(__file__).resolve().parent
PARAMS = HERE / "params.yaml"
RUNS = HERE / "runs"
QUALITY = HERE.parent / "quality"
SHARED = QUALITY / "params.yaml"
OF_TRAINING = "of_training"  # the same model, ranked with counts of training interactions alone
AGAINST = "hstu"
PAIRS = (
    ("hybrid_counts", "hybrid"),
    ("hybrid_counts", "hstu_counts"),
    (f"hybrid_counts_{OF_TRAINING}", "hybrid"),
    ("hstu_counts_refit", "hstu_refit"),
    ("hybrid_counts_refit", "hstu_counts_refit"),
    ("hybrid_counts", "hstu_state_counts"),
    ("hybrid_counts_refit", "hstu_state_counts_refit"),
    ("hybrid_counts", "counts_alone"),
    ("hybrid_counts_refit", "counts_alone"),
)
NAMES = {  # in the order of the tables
    "hybrid_counts_refit": "mixed recipe, recent counts, trained anew on validation too",
    "hstu_state_counts_refit": "HSTU + ALiBi, target's state, recent counts, trained anew on validation too",
    "hstu_counts_refit": "HSTU + ALiBi, recent counts, trained anew on validation too",
    "hstu_refit": "HSTU + ALiBi, trained anew on validation too",
    "hybrid_counts": "mixed recipe, recent counts",
    f"hybrid_counts_{OF_TRAINING}": "… ranked with counts of training interactions alone",
    "hstu_state_counts": "HSTU + ALiBi, target's state, recent counts",
    "hstu_counts": "HSTU + ALiBi, recent counts",
    f"hstu_counts_{OF_TRAINING}": "… ranked with counts of training interactions alone",
    "hybrid": "mixed recipe",
    "hstu": "HSTU + ALiBi",
    "counts_alone": "the counts alone",
}
SPLITS = {"leave_one_out": "Leave-one-out", "temporal": "Temporal split"}


def train(split: str, recipe: str, seed: str) -> None:
    """Train a recipe, and rank the test targets; with recent counts also by those of training interactions alone."""
    sequences = read_sequences(QUALITY / "data" / split / "sequences")
    changes = read_yaml(PARAMS)["recipes"][recipe]
    also = partial(_rank_by_training, sequences) if "recent_weight" in changes["model"] else None
    run_recipe(sequences, changes, int(seed), SHARED, RUNS / split / recipe / seed, also=also)


def _rank_by_training(sequences: Sequences, model: Recommender, folder: Path) -> None:
    """Rank the test targets with counts of training interactions alone."""
    settings = load_section(EvaluateSettings, "evaluate", SHARED)
    targets, excluded, counts = sequences.targets(TEST), settings.exclude_seen, sequences.training_counts
    ranks = rank_by_model(model, sequences, targets, excluded, settings.batch_users, recent=counts)
    write_ranks(ranks_table(sequences, targets, ranks), folder / f"{OF_TRAINING}.parquet")


def counts_alone(split: str) -> None:
    """Rank the test targets by how often an item was chosen in the 30 days before, by anybody."""
    sequences = read_sequences(QUALITY / "data" / split / "sequences")
    targets = sequences.targets(TEST)
    settings = baseline_settings(load_section(EvaluateSettings, "evaluate", SHARED), PeerSettings())
    ranks = rank_baseline("recent_counts", RecentCounted(), sequences, targets, settings)
    with atomic_folder(RUNS / split / "counts_alone/0") as folder:
        write_ranks(ranks_table(sequences, targets, ranks), folder / "ranks.parquet")


def results() -> None:
    """Write results.csv (means, and changes against HSTU), changes.csv (of `PAIRS`) and the picture."""
    tables = {}
    for split in SPLITS:
        of_split = {folder.name: read_trials(folder) for folder in sorted((RUNS / split).iterdir())}
        for folder in sorted((RUNS / split).iterdir()):
            if stale := sorted(folder.glob(f"*/{OF_TRAINING}.parquet")):
                of_split[f"{folder.name}_{OF_TRAINING}"] = [read_ranks(path) for path in stale]
        tables[split] = of_split
    write_recipe_results(HERE, tables, reversed(NAMES), AGAINST, PAIRS)


def show() -> None:
    """Print the page's tables from results.csv and changes.csv."""
    means, changes = read_csv(HERE / "results.csv"), read_csv(HERE / "changes.csv")
    for split, title in SPLITS.items():
        rows = {row["recipe"]: row for row in means if row["data"] == split}
        print_means(title, rows, NAMES, without_chance=["counts_alone"])
        against_hstu = [rows[recipe] | {"against": AGAINST} for recipe in ("hstu_counts", "hybrid")]
        print_pairs(f"{title}: change, %", [*against_hstu, *(row for row in changes if row["data"] == split)])


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {
        function.__name__: function for function in (train, counts_alone, results, show)
    }
    run_command(sys.argv[1:], commands)
