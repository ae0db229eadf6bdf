"""Stages of the study: averaging_study.py train SPLIT RECIPE SEED | results | show."""

from __future__ import annotations

import sys
from pathlib import Path

from tapestry.studies.recipe_study import RecipeStudy

HERE = Path(__file__).resolve().parent
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
    "hybrid_average_refit": "mixed recipe, averaged, trained anew on validation too",
    "hstu_average_refit": "HSTU + ALiBi, averaged, trained anew on validation too",
    "hybrid_counts_refit": "mixed recipe, trained anew on validation too",
    "hstu_counts_refit": "HSTU + ALiBi, trained anew on validation too",
    "hybrid_average": "mixed recipe, averaged",
    "hstu_average": "HSTU + ALiBi, averaged",
    "hybrid_counts": "mixed recipe",
    "hstu_counts": "HSTU + ALiBi",
    "hstu_without_levers": "HSTU + ALiBi without levers and recent counts",
}
STUDY = RecipeStudy(HERE, NAMES, "hstu_counts", PAIRS, other_runs=HERE.parent / "recent_counts/runs")

if __name__ == "__main__":
    STUDY.run(sys.argv[1:])
