"""Stages of the study: python ceiling_study.py COMMAND.

Commands: train HISTORY SEED, simulate EFFECT, train_simulated EFFECT RECIPE-HISTORY SEED, results, show.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tapestry.core.atomic import atomic_folder, write_csv
from tapestry.core.settings import load_section
from tapestry.core.splits import TEST
from tapestry.core.yaml_file import read_yaml
from tapestry.ingest.settings import IngestSettings
from tapestry.sequences.reader import Sequences, read_sequences
from tapestry.sessionize.settings import SessionizeSettings
from tapestry.source.settings import SyntheticSettings
from tapestry.studies.command import run_command
from tapestry.studies.data import simulate_sequences
from tapestry.studies.histories import exchanged, own_domain
from tapestry.studies.results import (
    group_rows,
    metric_values,
    print_table,
    read_csv,
    read_trials,
    short_figure,
    short_interval,
)
from tapestry.studies.trials import changed_section, run_recipe

HERE = Path(__file__).resolve().parent
PARAMS = HERE / "params.yaml"
QUALITY = HERE.parent / "quality"
SHARED = QUALITY / "params.yaml"
SIX_DOMAINS = QUALITY / "data/leave_one_out/sequences"
RECIPE = "hstu_items"
HISTORIES: dict[str, Callable[[Sequences, int], Sequences]] = {
    "own": lambda sequences, _: own_domain(sequences),
    "exchanged": exchanged,
    "all": lambda sequences, _: sequences,
}
NAMES = {  # of the simulated trials, in the order of the table
    "hstu_items-own": "HSTU + ALiBi, `own`",
    "hstu_items-exchanged": "HSTU + ALiBi, `exchanged`",
    "hstu_items-all": "HSTU + ALiBi, `all`",
    "paper_items-all": "the paper's model, `all`",
    "paper_no_tape-all": "… without TAPE",
    "paper_no_ddsr-all": "… without DDSR",
    "hybrid_items-all": "within domains below, full in the last layer, TAPE and DDSR, `all`",
    "hybrid_state-all": "… with the target's state (the mixed recipe)",
    "hstu_state-all": "HSTU + ALiBi with the target's state, `all`",
}
# Groups by interactions in the target's domain before the target: name, fewest and most.
_OWN = (("all targets", 1, 10**9), ("1", 1, 1), ("2 to 3", 2, 3), ("4 to 7", 4, 7), ("8 or more", 8, 10**9))


def train(history: str, seed: str) -> None:
    """Train the recipe on one kind of history of the six domains, and rank the test targets."""
    sequences = HISTORIES[history](read_sequences(SIX_DOMAINS), int(seed))
    run_recipe(sequences, _recipes()[RECIPE], int(seed), SHARED, HERE / "runs/six_domains" / history / seed)


def simulate(effect: str) -> None:
    """Simulate interactions with one effect of other domains, and make their sequences."""
    simulator = changed_section(SyntheticSettings, "synthetic", {"cross_domain_effect": float(effect)}, PARAMS)
    domains = load_section(tuple[str, ...], "domains", PARAMS)
    ingesting = load_section(IngestSettings, "ingest", SHARED)
    rules = load_section(SessionizeSettings, "sessionize", SHARED)
    with atomic_folder(HERE / "data" / effect) as folder:
        simulate_sequences(simulator, domains, ingesting, rules, folder)


def train_simulated(effect: str, trial: str, seed: str) -> None:
    """Train a recipe on one kind of history of a simulation, and rank the test targets."""
    recipe, history = trial.split("-")
    sequences = HISTORIES[history](read_sequences(HERE / "data" / effect / "sequences"), int(seed))
    run_recipe(sequences, _recipes()[recipe], int(seed), SHARED, HERE / "runs" / effect / trial / seed)


def _recipes() -> dict[str, Any]:
    """Return the recipes of the study of quality, and those of this study."""
    recipes: dict[str, Any] = read_yaml(SHARED)["recipes"] | read_yaml(PARAMS)["recipes"]
    return recipes


def results() -> None:
    """Write results.csv and simulated.csv: means of each trial, and changes, on the targets that all trials rank.

    results.csv has the six domains, by the number of interactions in the target's domain; `all` is the recipe in the
    study of quality, and changes are against `own`. In simulated.csv they are against HSTU on `all`.
    """
    runs = HERE / "runs"
    tables = {path.name: read_trials(path) for path in sorted((runs / "six_domains").iterdir())}
    tables["all"] = read_trials(QUALITY / "runs/leave_one_out" / RECIPE)
    users, values = _on_common_targets(tables)
    own = _own_interactions(SIX_DOMAINS, users)
    rows: list[dict[str, Any]] = []
    for group, low, high in _OWN:
        inside = (own >= low) & (own <= high)
        of_group = group_rows(values, "history", "own", np.arange(len(users)), inside)
        rows += [{"own_interactions": group} | row for row in of_group]
    write_csv(HERE / "results.csv", rows)

    simulated: list[dict[str, Any]] = []
    for effect in sorted(path.name for path in (HERE / "data").iterdir()):
        trials = {path.name: read_trials(path) for path in sorted((runs / effect).iterdir())}
        users, values = _on_common_targets(trials)
        of_effect = group_rows(values, "trial", f"{RECIPE}-all", np.arange(len(users)))
        simulated += [{"cross_domain_effect": effect} | row for row in of_effect]
    write_csv(HERE / "simulated.csv", simulated)


def show() -> None:
    """Print the README's tables from results.csv and simulated.csv."""
    columns = {"hr_10": "HR@10", "hr_100": "HR@100", "mrr": "MRR"}
    rows = [
        [
            row["own_interactions"],
            row["targets"],
            f"`{row['history']}`",
            *_cells(row, list(columns), row["history"] == "own"),
        ]
        for row in read_csv(HERE / "results.csv")
    ]
    against = [f"{name} against `own`, %" for name in columns.values()]
    print_table(["own interactions", "targets", "history", "HR@100", *against], rows)
    against = [f"{name} against HSTU on `all`, %" for name in columns.values()]
    simulated = read_csv(HERE / "simulated.csv")
    for effect in dict.fromkeys(row["cross_domain_effect"] for row in simulated):
        trials = {row["trial"]: row for row in simulated if row["cross_domain_effect"] == effect}
        rows = [
            [NAMES[name], *_cells(trials[name], list(columns), name == f"{RECIPE}-all")]
            for name in NAMES
            if name in trials
        ]
        print_table([f"{100 * float(effect):.0f} % follow another domain", "HR@100", *against], rows)


def _cells(row: Mapping[str, str], metrics: Iterable[str], compared_with: bool) -> list[str]:
    """Return HR@100, and the changes of some metrics, which are empty for what the others are compared with."""
    changes = ["" if compared_with else short_interval(row, metric) for metric in metrics]
    return [short_figure(row["hr_100"]), *changes]


def _on_common_targets(
    tables: Mapping[str, Sequence[pa.Table]],
) -> tuple[list[str], dict[str, dict[str, npt.NDArray[np.float64]]]]:
    """Return the users whose target all tables rank, and the metrics of each trial on these targets."""
    users = {
        name: [table["user_id"].to_numpy(zero_copy_only=False) for table in found] for name, found in tables.items()
    }
    common = sorted(set.intersection(*(set(user) for found in users.values() for user in found)))
    values = {}
    for name, of_seeds in tables.items():
        rows = [dict(zip(user, range(len(user)), strict=True)) for user in users[name]]
        aligned = [table.take([row[user] for user in common]) for table, row in zip(of_seeds, rows, strict=True)]
        values[name] = metric_values(aligned)
    return common, values


def _own_interactions(data: Path, users: Sequence[str]) -> npt.NDArray[np.int64]:
    """Count the interactions in the target's domain before each user's test target."""
    sequences = read_sequences(data)
    count = {}
    for target in sequences.targets(TEST):
        user = sequences.user[target]
        before = sequences.domain[sequences.offsets[user] : target]
        count[sequences.user_id[user]] = int((before == sequences.domain[target]).sum())
    return np.array([count[user] for user in users])


if __name__ == "__main__":
    commands = {function.__name__: function for function in (train, simulate, train_simulated, results, show)}
    run_command(sys.argv[1:], commands)
