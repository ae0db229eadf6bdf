"""The tables and the picture of a controlled study, see `tapestry.studies.controlled`. Commands: results | show.

A study whose params.yaml has `groups`, a list of beginnings of names of `tapestry.studies.groups`, has figures of these
groups of targets, too. `pairs`, a list of two recipes each: changes.csv has the changes of the first against the
second. `line` of a recipe is the line of the picture that it belongs to, if the picture's `lines` is
`line`. If the study has a seconds.csv, results.csv has its column `epoch_s`: the seconds of an epoch of each recipe.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tapestry.core.atomic import write_csv
from tapestry.core.yaml_file import read_yaml
from tapestry.studies.command import run_command
from tapestry.studies.controlled import PARAMS, data_folder
from tapestry.studies.groups import target_groups
from tapestry.studies.pictures import draw
from tapestry.studies.results import (
    change_row,
    group_rows,
    metric_values,
    pair_rows,
    print_pairs,
    print_table,
    read_csv,
    read_trials,
    short,
    short_figure,
    short_interval,
    summary_row,
    users_of,
)

_SECONDS = Path("seconds.csv")
_COLUMNS = {"hr_1": "HR@1", "hr_100": "HR@100", "ndcg_100": "NDCG@100", "mrr": "MRR"}


def results() -> None:
    """Write results.csv, a row for each data set and recipe, picture.svg, and groups.csv and changes.csv, if wanted."""
    params = read_yaml(PARAMS)
    recipes = _recipes()
    changed = dict.fromkeys(key for recipe in recipes.values() for key in recipe["model"])
    seconds = {row["recipe"]: row["epoch_s"] for row in read_csv(_SECONDS)} if _SECONDS.exists() else {}
    rows: list[dict[str, Any]] = []
    groups: list[dict[str, Any]] = []
    changes: list[dict[str, Any]] = []
    for data in params["data"]:
        runs = {name: Path(recipe.get("study", "."), "runs", data, name) for name, recipe in params["recipes"].items()}
        tables = {recipe: read_trials(folder) for recipe, folder in runs.items()}
        values = {recipe: metric_values(of_seeds) for recipe, of_seeds in tables.items()}
        for recipe, found in values.items():
            row = {"data": data, **_properties(data_folder(data)), "recipe": recipe}
            row |= {"line": recipes[recipe]["line"]} if "line" in recipes[recipe] else {}
            row |= {"epoch_s": seconds[recipe]} if seconds else {}
            row |= {key: recipes[recipe]["model"].get(key, "") for key in changed} | summary_row(found)
            row |= change_row(found, values[params["against"]], users_of(tables[recipe][0]))
            rows.append(row | _mean_figures(runs[recipe]))
        first = next(iter(tables.values()))[0]
        changes += [{"data": data} | row for row in pair_rows(values, params.get("pairs", ()), users_of(first))]
        for group, inside in target_groups(first):
            if group.startswith(tuple(params.get("groups", ()))):
                rows_of_group = group_rows(values, "recipe", params["against"], users_of(first), inside)
                groups += [{"data": data, "group": group} | row for row in rows_of_group]
    write_csv(Path("results.csv"), rows)
    if groups:
        write_csv(Path("groups.csv"), groups)
    if changes:
        write_csv(Path("changes.csv"), changes)
    draw(params["picture"], read_csv(Path("results.csv")), params["against"], Path("picture.svg"))


def _recipes() -> dict[str, dict[str, Any]]:
    """Return the recipes by name, those of other studies as these define them, or with a name of their own here."""
    recipes = read_yaml(PARAMS)["recipes"]
    return {
        name: read_yaml(Path(recipe["study"]) / PARAMS)["recipes"][name] | recipe if "study" in recipe else recipe
        for name, recipe in recipes.items()
    }


def _properties(data: Path) -> dict[str, Any]:
    """Return what characterises a data set. transition_entropy is normalised: 1 if the next domain is any of all D."""
    statistics = _read_json(data / "statistics.json")
    every, domains = statistics["all"], statistics["domain"].values()
    return {
        "domains": len(domains),
        "interactions": every["interactions"],
        "delta": short(every["delta"]),
        "largest_share": short(max(domain["interactions"] for domain in domains) / every["interactions"]),
        "transition_entropy": short(every["transition_entropy"] / math.log(len(domains))),
    }


def _mean_figures(folder: Path) -> dict[str, float]:
    """Return the means over seeds of figures.json."""
    of_seeds = [_read_json(path / "figures.json") for path in sorted(folder.iterdir())]
    return {name: short(np.mean([figures[name] for figures in of_seeds])) for name in of_seeds[0]}


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def show() -> None:
    """Print the README's tables from results.csv: means, and changes against one recipe."""
    params = read_yaml(PARAMS)
    names = {recipe: changes["name"] for recipe, changes in _recipes().items()}
    rows = read_csv(Path("results.csv"))
    print_table(
        ["data", "recipe", "seeds", *_COLUMNS.values()],
        [
            [row["data"], names[row["recipe"]], row["seeds"], *(short_figure(row[metric]) for metric in _COLUMNS)]
            for row in rows
        ],
    )
    print_table(
        [f"change against {names[params['against']]}, %", "recipe", *_COLUMNS.values()],
        [
            [row["data"], names[row["recipe"]], *(short_interval(row, metric) for metric in _COLUMNS)]
            for row in rows
            if row["recipe"] != params["against"]
        ],
    )
    if "pairs" in params:
        print_pairs("change, %", read_csv(Path("changes.csv")))
    if "groups" in params:
        _show_groups(params, names)


def _show_groups(params: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Print HR@100 of each group of targets, and its changes, from groups.csv."""
    groups = read_csv(Path("groups.csv"))
    others = [recipe for recipe in names if recipe != params["against"]]
    for data in params["data"]:
        of = {(row["group"], row["recipe"]): row for row in groups if row["data"] == data}
        print_table(
            [
                f"{data}: HR@100",
                "targets",
                names[params["against"]],
                *(f"{names[other]}: change, %" for other in others),
            ],
            [
                [group, row["targets"], short_figure(row["hr_100"])]
                + [short_interval(of[group, other], "hr_100") for other in others]
                for (group, recipe), row in of.items()
                if recipe == params["against"]
            ],
        )


if __name__ == "__main__":
    commands = {function.__name__: function for function in (results, show)}
    run_command(sys.argv[1:], commands)
