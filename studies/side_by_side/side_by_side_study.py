"""Stages of the study: side_by_side_study.py train SPLIT RECIPE SEED | results | show."""

from __future__ import annotations

import sys
from pathlib import Path

from tapestry.studies.recipe_study import RecipeStudy

HERE = Path(__file__).resolve().parent
PAIRS = (
    ("beside_ddsr", "hstu_one"),
    ("beside_ddsr", "hstu_average"),
    ("beside_ddsr", "hybrid_average"),
    ("beside_ddsr", "beside"),
    ("beside", "hstu_one"),
    ("beside", "hstu_average"),
    ("beside", "hybrid_average"),
    ("beside", "without_intra"),
    ("hybrid_average", "hstu_one"),
    ("beside_ddsr_refit", "hstu_one_refit"),
    ("beside_ddsr_refit", "hstu_average_refit"),
    ("beside_ddsr_refit", "hybrid_average_refit"),
    ("beside_ddsr_refit", "beside_refit"),
    ("beside_refit", "hstu_one_refit"),
    ("beside_refit", "hstu_average_refit"),
    ("beside_refit", "hybrid_average_refit"),
)
NAMES = {  # in the order of the tables
    "beside_ddsr_refit": "side by side with DDSR, trained anew on validation too",
    "beside_refit": "side by side, trained anew on validation too",
    "hybrid_average_refit": "mixed recipe, trained anew on validation too",
    "hstu_average_refit": "HSTU + ALiBi, two layers, trained anew on validation too",
    "hstu_one_refit": "HSTU + ALiBi, one layer, trained anew on validation too",
    "beside_ddsr": "side by side with DDSR in the layer within domains",
    "beside": "side by side: a layer within domains, a layer over all",
    "without_intra": "… without the layer within domains",
    "hybrid_average": "mixed recipe",
    "hstu_average": "HSTU + ALiBi, two layers",
    "hstu_one": "HSTU + ALiBi, one layer",
    "default": "params.yaml as it is: side by side with DDSR, without counts",
}
STUDY = RecipeStudy(HERE, NAMES, "hstu_one", PAIRS, other_runs=HERE.parent / "averaging/runs")

if __name__ == "__main__":
    STUDY.run(sys.argv[1:])
