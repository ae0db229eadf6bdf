"""Print the two tables of the checkout's README, from the tracked results of several studies: readme_tables.py"""

from __future__ import annotations

from pathlib import Path

from tapestry.studies.results import print_changes, print_means, read_csv

HERE = Path(__file__).resolve().parent
ALL = "with levers, recent counts and averages"
# A row of the means: the study that has it, the recipe in its results.csv, and the name in the table.
MEANS = {
    "leave_one_out": (
        ("side_by_side", "beside", f"layers side by side, {ALL}"),
        ("side_by_side", "hybrid_average", f"mixed recipe, {ALL}"),
        ("side_by_side", "hstu_average", f"HSTU + ALiBi, {ALL}"),
        ("quality", "hstu_items", "HSTU + ALiBi with the levers"),
        ("quality", "paper_items", "the paper's model with the levers"),
        ("quality", "hstu", "HSTU + ALiBi"),
        ("quality", "paper", "the paper's model"),
        ("peers", "sasrec", "RecTools' SASRec"),
        ("peers", "hstu_rectools", "RecTools' HSTU"),
        ("recent_counts", "counts_alone", "recent counts alone"),
        ("quality", "item_knn", "item-kNN"),
        ("quality", "popularity", "popularity"),
    ),
    "temporal": (
        ("side_by_side", "beside_refit", f"layers side by side, {ALL}, trained anew"),
        ("side_by_side", "hybrid_average_refit", f"mixed recipe, {ALL}, trained anew"),
        ("side_by_side", "hstu_average_refit", f"HSTU + ALiBi, {ALL}, trained anew"),
        ("side_by_side", "hstu_average", f"HSTU + ALiBi, {ALL}"),
        ("quality", "hstu_items", "HSTU + ALiBi with the levers"),
        ("quality", "hstu", "HSTU + ALiBi"),
        ("recent_counts", "counts_alone", "recent counts alone"),
        ("quality", "item_knn", "item-kNN"),
        ("quality", "popularity", "popularity"),
    ),
}
# A row of the changes: the study whose changes.csv has it, the split, both recipes, and the name in the table.
FRESH = "temporal split, trained anew"
CHANGES = (
    ("side_by_side", "leave_one_out", "beside", "hstu_average", "layers side by side, leave-one-out"),
    ("side_by_side", "temporal", "beside_refit", "hstu_average_refit", f"layers side by side, {FRESH}"),
    ("averaging", "leave_one_out", "hybrid_average", "hstu_average", "mixed recipe, leave-one-out"),
    ("averaging", "temporal", "hybrid_average_refit", "hstu_average_refit", f"mixed recipe, {FRESH}"),
)
WITHOUT_CHANCE = ("recent counts alone", "item-kNN", "popularity")
TITLES = {"leave_one_out": "Leave-one-out", "temporal": "Temporal split"}


def show() -> None:
    """Print the means of both splits, and how far cross-domain models are ahead of HSTU + ALiBi."""
    for split, chosen in MEANS.items():
        rows = {name: _means(study, split)[recipe] for study, recipe, name in chosen}
        print_means(TITLES[split], rows, {name: name for name in rows}, WITHOUT_CHANCE)
    changes = {name: _change(study, split, recipe, against) for study, split, recipe, against, name in CHANGES}
    print_changes("Ahead of HSTU + ALiBi, %", changes, {name: name for name in changes})


def _means(study: str, split: str) -> dict[str, dict[str, str]]:
    """Return recipe → row of a study's results.csv."""
    rows = read_csv(HERE / study / "results.csv")
    of_split = [row for row in rows if row.get("split", row.get("data", split)) == split]
    return {row.get("recipe", row.get("method", "")): row for row in of_split}


def _change(study: str, split: str, recipe: str, against: str) -> dict[str, str]:
    wanted = (split, recipe, against)
    rows = read_csv(HERE / study / "changes.csv")
    return next(row for row in rows if (row["data"], row["recipe"], row["against"]) == wanted)


if __name__ == "__main__":
    show()
