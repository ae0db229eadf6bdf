"""The results of a study that compares recipes on several splits: two tables and a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tapestry.core.atomic import write_csv
from tapestry.core.yaml_file import read_yaml
from tapestry.studies.pictures import draw
from tapestry.studies.results import group_rows, metric_values, pair_rows, read_csv, users_of


def write_recipe_results(
    folder: Path,
    tables: Mapping[str, Mapping[str, Sequence[pa.Table]]],
    order: Iterable[str],
    against: str,
    pairs: Sequence[tuple[str, str]],
) -> None:
    """Write a study's results.csv (means, and changes against one recipe), changes.csv and picture.svg.

    Args:
        folder: of the study. Its params.yaml says what the picture shows (`picture`).
        tables: split → recipe → ranks of each seed.
        order: of the recipes in results.csv.
        against: the recipe with which results.csv compares all.
        pairs: those of changes.csv: a recipe, and the one that it is compared with. A split leaves out pairs that it
            doesn't have.
    """
    means: list[dict[str, Any]] = []
    changes: list[dict[str, Any]] = []
    ordered = list(order)
    for split, of_split in tables.items():
        values = {name: metric_values(of_split[name]) for name in ordered if name in of_split}
        user_N = users_of(of_split[against][0])
        means += [{"data": split} | row for row in group_rows(values, "recipe", against, user_N)]
        changes += [{"data": split} | row for row in pair_rows(values, pairs, user_N)]
    write_csv(folder / "results.csv", means)
    write_csv(folder / "changes.csv", changes)
    picture = read_yaml(folder / "params.yaml")["picture"]
    drawn = [row for row in read_csv(folder / "results.csv") if row["recipe"] in picture["names"]]
    draw(picture, drawn, against, folder / "picture.svg")
