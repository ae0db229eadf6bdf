"""Stages of the study: neighbours_study.py train SPLIT RECIPE SEED | results | show."""

from __future__ import annotations

import sys
from pathlib import Path

from tapestry.model.network import Recommender
from tapestry.studies.recipe_study import RecipeStudy

HERE = Path(__file__).resolve().parent
PAIRS = (
    ("hybrid", "hybrid_alone"),
    ("beside", "beside_alone"),
    ("hstu", "hstu_alone"),
    ("hstu_one", "hstu_one_alone"),
    ("hybrid", "hstu"),
    ("hybrid", "hstu_one"),
    ("beside", "hstu"),
    ("beside", "hstu_one"),
    ("hybrid", "beside"),
    ("hybrid_alone", "hstu_alone"),
    ("beside_alone", "hstu_alone"),
)
NAMES = {  # in the order of the tables
    "hybrid": "mixed recipe",
    "hybrid_alone": "… without neighbours",
    "beside": "side by side",
    "beside_alone": "… without neighbours",
    "hstu": "HSTU + ALiBi, two layers",
    "hstu_alone": "… without neighbours",
    "hstu_one": "HSTU + ALiBi, one layer",
    "hstu_one_alone": "… without neighbours",
}


def _without_neighbours(model: Recommender) -> None:
    """Let the network rank alone."""
    model.neighbours = None


STUDY = RecipeStudy(
    HERE,
    NAMES,
    "hstu",
    PAIRS,
    title="recent counts, averages and neighbours",
    anew=("temporal",),
    changed={"alone": _without_neighbours},
)

if __name__ == "__main__":
    STUDY.run(sys.argv[1:])
