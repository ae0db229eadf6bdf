"""Stages of the study: data SPLIT | baselines SPLIT | train SPLIT RECIPE SEED | results | show.

Example: `python quality_study.py train leave_one_out hstu 1`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tapestry.baselines.baselines import rank_baselines
from tapestry.core.atomic import atomic_folder, write_csv
from tapestry.core.settings import load_section
from tapestry.core.splits import TEST
from tapestry.core.yaml_file import read_yaml
from tapestry.evaluation.ranks import ranks_table, read_ranks, write_ranks
from tapestry.evaluation.settings import EvaluateSettings
from tapestry.ingest.settings import IngestSettings
from tapestry.sequences.reader import read_sequences
from tapestry.sessionize.settings import SessionizeSettings
from tapestry.studies.command import run_command
from tapestry.studies.data import make_sequences
from tapestry.studies.groups import target_groups
from tapestry.studies.results import (
    METRICS,
    change_row,
    metric_values,
    print_changes,
    print_means,
    print_pairs,
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
MIXED = "hybrid_state"
VERSUS = ("hstu", "hstu_items", "hstu_refit")  # what each recipe is compared with
PAIRS = (  # … and further comparisons
    ("hybrid_state", "hstu_state"),
    ("hybrid_fewer", "hybrid_state"),
    ("hybrid_fewer", "hstu_fewer"),
    ("hybrid_fewer", "hstu_state_long"),
    ("hybrid_fewer", "hstu_state_deep"),
    ("hybrid_refit", "hstu_state_refit"),
)
NAMES = {  # of recipes and baselines, in the order of the tables
    "hybrid_refit": "mixed recipe, trained anew on validation too",
    "hstu_state_refit": "HSTU + ALiBi with the same levers, target's state, trained anew on validation too",
    "hstu_refit": "HSTU + ALiBi with the same levers, trained anew on validation too",
    "hybrid_state": "mixed recipe: within domains below, TAPE, DDSR; full in the last layer; target's state",
    "hybrid_fewer": "mixed recipe, 1,024 negatives as in params.yaml",
    "hybrid_items": "mixed recipe without the target's state",
    "paper_items": "the paper's model with the same levers",
    "hstu_state": "HSTU + ALiBi with the same levers, target's state",
    "hstu_state_deep": "HSTU + ALiBi with the same levers, target's state, a third layer, 1,024 negatives",
    "hstu_state_long": "HSTU + ALiBi with the same levers, target's state, 18 epochs, 1,024 negatives",
    "hstu_items": "HSTU + ALiBi with the same levers",
    "hstu_fewer": "HSTU + ALiBi with the same levers, 1,024 negatives",
    "paper": "the paper's model",
    "hstu": "HSTU + ALiBi",
    "item_knn": "item-kNN",
    "recent_popularity": "popularity of the last 90 days, within the domain",
    "popularity": "popularity within the domain",
}
BASELINES = ("item_knn", "recent_popularity", "popularity")
SPLITS = {"leave_one_out": "Leave-one-out", "temporal": "Temporal split"}
_SHOWN_GROUPS = (  # of breakdown.csv, in the README
    "same domain",
    "other domain",
    "untied",
    "tied",
    "history 1 to 5",
    "history 6 to 10",
    "history 11 to 20",
    "history 21 to inf",
    "popularity decile 1",
    "popularity decile 5",
    "popularity decile 10",
    "item without training",
)


def data(split: str) -> None:
    """Make the sequences of one split, from the raw files."""
    raw = HERE.parents[1] / load_section(str, "path", PARAMS)
    files = {domain: raw / f"{domain}.json.gz" for domain in load_section(tuple[str, ...], "domains", PARAMS)}
    rules = changed_section(SessionizeSettings, "sessionize", {"split": split}, PARAMS)
    with atomic_folder(HERE / "data" / split) as folder:
        make_sequences(files, load_section(IngestSettings, "ingest", PARAMS), rules, folder)


def baselines(split: str) -> None:
    """Rank the test targets by each baseline."""
    sequences = read_sequences(HERE / "data" / split / "sequences")
    targets = sequences.targets(TEST)
    ranked = rank_baselines(sequences, targets, load_section(EvaluateSettings, "evaluate", PARAMS))
    with atomic_folder(HERE / "baselines" / split) as folder:
        for name, ranks in ranked.items():
            write_ranks(ranks_table(sequences, targets, ranks), folder / f"{name}.parquet")


def train(split: str, recipe: str, seed: str) -> None:
    """Train a recipe, and rank the test targets."""
    sequences = read_sequences(HERE / "data" / split / "sequences")
    run_recipe(
        sequences, read_yaml(PARAMS)["recipes"][recipe], int(seed), PARAMS, HERE / "runs" / split / recipe / seed
    )


def results() -> None:
    """Write results.csv (means over seeds), changes.csv (with intervals) and breakdown.csv (means of groups)."""
    means: list[dict[str, Any]] = []
    changes: list[dict[str, Any]] = []
    groups: list[dict[str, Any]] = []
    for split in sorted(path.name for path in (HERE / "runs").iterdir()):
        trained = [name for name in read_yaml(PARAMS)["recipes"] if (HERE / "runs" / split / name).is_dir()]
        tables = {recipe: read_trials(HERE / "runs" / split / recipe) for recipe in trained}
        tables |= {path.stem: [read_ranks(path)] for path in sorted((HERE / "baselines" / split).glob("*.parquet"))}
        values = {name: metric_values(of_seeds) for name, of_seeds in tables.items()}
        first = tables[VERSUS[0]][0]
        for name, found in values.items():
            means.append({"split": split, "recipe": name, **summary_row(found)})
            for group, inside in target_groups(first):
                row = {"split": split, "recipe": name, "group": group, "targets": int(inside.sum())}
                groups.append(row | {metric: short(found[metric][:, inside].mean()) for metric in METRICS})
        for other in trained:
            for name in trained:
                if _is_compared(name, other):
                    row = change_row(values[name], values[other], users_of(first))
                    changes.append({"split": split, "recipe": name, "against": other, **row})
    write_csv(HERE / "results.csv", means)
    write_csv(HERE / "changes.csv", changes)
    write_csv(HERE / "breakdown.csv", groups)


def _is_compared(recipe: str, other: str) -> bool:
    """Return whether a comparison is wanted, and fair: one trained on validation too has newer data than the others."""
    fair = recipe.endswith("_refit") or not other.endswith("_refit")
    return (other in VERSUS and recipe != other and fair) or (recipe, other) in PAIRS


def show() -> None:
    """Print the README's tables from results.csv, changes.csv and breakdown.csv."""
    means, changes, groups = (read_csv(HERE / f"{name}.csv") for name in ("results", "changes", "breakdown"))
    for split, title in SPLITS.items():
        of_split = {row["recipe"]: row for row in means if row["split"] == split}
        print_means(title, of_split, NAMES, BASELINES)
        for other in VERSUS:
            compared = {row["recipe"]: row for row in changes if (row["split"], row["against"]) == (split, other)}
            if compared:
                print_changes(f"{title}: change against {NAMES[other]}, %", compared, NAMES)
        of_pair = {(row["recipe"], row["against"]): row for row in changes if row["split"] == split}
        print_pairs(f"{title}: change of a recipe, %", [of_pair[pair] for pair in PAIRS if pair in of_pair])
        if split == "leave_one_out":
            _show_seconds()
            _show_groups([row for row in groups if row["split"] == split])


def _show_seconds() -> None:
    """Print how long an epoch of each recipe takes."""
    seconds = {row["recipe"]: float(row["epoch_s"]) for row in read_csv(HERE / "seconds.csv")}
    print_table(
        ["an epoch of", "seconds, one thread", "relative to `hstu_items`"],
        [[f"`{name}`", f"{of:.1f}", f"{of / seconds['hstu_items']:.2f}"] for name, of in seconds.items()],
    )


def _show_groups(rows: list[dict[str, str]]) -> None:
    """Print HR@100 and MRR of groups of targets."""
    recipes = ("hstu", "hstu_items", MIXED)
    of = {(row["recipe"], row["group"]): row for row in rows}
    print_table(
        ["Leave-one-out: HR@100 / MRR", "targets", *(NAMES[recipe].partition(":")[0] for recipe in recipes)],
        [
            [
                group.replace("21 to inf", "21 or more"),
                of[MIXED, group]["targets"],
                *(
                    " / ".join(short_figure(of[recipe, group][metric]) for metric in ("hr_100", "mrr"))
                    for recipe in recipes
                ),
            ]
            for group in _SHOWN_GROUPS
        ],
    )


if __name__ == "__main__":
    commands = {function.__name__: function for function in (data, baselines, train, results, show)}
    run_command(sys.argv[1:], commands)
