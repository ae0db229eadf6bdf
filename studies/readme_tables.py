"""Print the three tables of what was found in the checkout's README, from studies' tracked results: readme_tables.py"""

from __future__ import annotations

from pathlib import Path

from tapestry.studies.results import print_changes, print_means, read_csv

HERE = Path(__file__).resolve().parent
ALL = "with levers, recent counts, averages and neighbours"
FEWER = "with levers, recent counts and averages"
FRESH = "trained anew"
# Rows of means: study/recipe, of the study's results.csv, and the name in the table.
MEANS = {
    "leave_one_out": {
        "neighbours/hybrid": f"mixed recipe, {ALL}",
        "neighbours/beside": f"layers side by side, {ALL}",
        "neighbours/hstu": f"HSTU + ALiBi, {ALL}",
        "side_by_side/hstu_average": f"HSTU + ALiBi, {FEWER}",
        "quality/hstu_items": "HSTU + ALiBi with the levers",
        "quality/paper_items": "the paper's model with the levers",
        "quality/hstu": "HSTU + ALiBi",
        "quality/paper": "the paper's model",
        "peers/sasrec": "RecTools' SASRec",
        "peers/hstu_rectools": "RecTools' HSTU",
        "recent_counts/counts_alone": "recent counts alone",
        "quality/item_knn": "item-kNN",
        "quality/popularity": "popularity",
    },
    "temporal": {
        "neighbours/hybrid": f"mixed recipe, {ALL}, {FRESH}",
        "neighbours/beside": f"layers side by side, {ALL}, {FRESH}",
        "neighbours/hstu": f"HSTU + ALiBi, {ALL}, {FRESH}",
        "side_by_side/hstu_average_refit": f"HSTU + ALiBi, {FEWER}, {FRESH}",
        "side_by_side/hstu_average": f"HSTU + ALiBi, {FEWER}",
        "quality/hstu_items": "HSTU + ALiBi with the levers",
        "quality/hstu": "HSTU + ALiBi",
        "recent_counts/counts_alone": "recent counts alone",
        "quality/item_knn": "item-kNN",
        "quality/popularity": "popularity",
    },
}
WITHOUT_CHANCE = ("recent_counts/counts_alone", "quality/item_knn", "quality/popularity")
TITLES = {"leave_one_out": "Leave-one-out", "temporal": "Temporal split"}
# Rows of changes: the name in the table, the study whose changes.csv has it, the split, and both recipes.
CHANGES = {
    "mixed recipe, leave-one-out": ("neighbours", "leave_one_out", "hybrid", "hstu"),
    f"mixed recipe, temporal split, {FRESH}": ("neighbours", "temporal", "hybrid", "hstu"),
    "layers side by side, leave-one-out": ("neighbours", "leave_one_out", "beside", "hstu"),
    f"layers side by side, temporal split, {FRESH}": ("neighbours", "temporal", "beside", "hstu"),
}


def show() -> None:
    """Print the means of both splits, and how far cross-domain models are ahead of HSTU + ALiBi."""
    for split, names in MEANS.items():
        print_means(TITLES[split], {place: _mean(split, *place.split("/")) for place in names}, names, WITHOUT_CHANCE)
    changes = {name: _change(*place) for name, place in CHANGES.items()}
    print_changes("Ahead of HSTU + ALiBi, %", changes, {name: name for name in changes})


def _mean(split: str, study: str, recipe: str) -> dict[str, str]:
    """Return a recipe's row of a study's results.csv. That of peers is of one split, and calls a recipe method."""
    for row in read_csv(HERE / study / "results.csv"):
        of_split = row.get("split", row.get("data", split))
        if (of_split, row.get("recipe", row.get("method"))) == (split, recipe):
            return row
    raise KeyError(f"{study}: no {recipe} under {split}")


def _change(study: str, split: str, recipe: str, against: str) -> dict[str, str]:
    wanted = (split, recipe, against)
    rows = read_csv(HERE / study / "changes.csv")
    return next(row for row in rows if (row["data"], row["recipe"], row["against"]) == wanted)


if __name__ == "__main__":
    show()
