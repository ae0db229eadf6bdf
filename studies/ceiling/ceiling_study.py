"""The stages of the study: python ceiling_study.py train HISTORY SEED | results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from tapestry.core.atomic import write_csv
from tapestry.core.failures import reported_errors
from tapestry.core.settings import load_section
from tapestry.core.splits import TEST
from tapestry.core.yaml_file import read_yaml
from tapestry.evaluation.settings import EvaluateSettings
from tapestry.model.settings import ModelSettings
from tapestry.sequences.reader import read_sequences
from tapestry.studies.histories import exchanged, own_domain
from tapestry.studies.results import change_row, metric_values, read_trials, summary_row
from tapestry.studies.trials import changed_section, run_trial
from tapestry.training.settings import TrainSettings

HERE = Path(__file__).resolve().parent
QUALITY = HERE.parent / "quality"
RECIPE = "hstu_items"
TRAINED = ("own", "exchanged")
_OWN = ((1, 1), (2, 3), (4, 7), (8, 10**9))  # groups by interactions in the target's domain before the target


def train(history: str, seed: str) -> None:
    """Train the recipe on one kind of history, and rank the test targets."""
    params = QUALITY / "params.yaml"
    changes = read_yaml(params)["recipes"][RECIPE]
    sequences = read_sequences(QUALITY / "data/leave_one_out/sequences")
    run_trial(
        own_domain(sequences) if history == "own" else exchanged(sequences, int(seed)),
        changed_section(ModelSettings, "model", changes["model"], params),
        changed_section(TrainSettings, "train", changes["train"] | {"seed": int(seed)}, params),
        load_section(EvaluateSettings, "evaluate", params),
        HERE / "runs" / history / seed,
    )


def results() -> None:
    """Write results.csv: means of each kind of history, and the change against `own`, on the targets that all rank.

    `all` is the recipe in the study of quality.
    """
    tables = {history: read_trials(HERE / "runs" / history) for history in TRAINED}
    tables["all"] = read_trials(QUALITY / "runs/leave_one_out" / RECIPE)
    users = {
        name: [table["user_id"].to_numpy(zero_copy_only=False) for table in found] for name, found in tables.items()
    }
    common = sorted(set.intersection(*(set(user) for found in users.values() for user in found)))
    values = {}
    for name, of_seeds in tables.items():
        rows = [dict(zip(user, range(len(user)), strict=True)) for user in users[name]]
        aligned = [table.take([row[user] for user in common]) for table, row in zip(of_seeds, rows, strict=True)]
        values[name] = metric_values(aligned)
    own = _own_interactions(common)
    groups = {"all targets": own > 0} | {f"{low} to {high}": (own >= low) & (own <= high) for low, high in _OWN}
    rows_out: list[dict[str, Any]] = []
    for group, inside in groups.items():
        of_group = {name: {key: value[:, inside] for key, value in found.items()} for name, found in values.items()}
        for name, found in of_group.items():
            row = {"own_interactions": group, "targets": int(inside.sum()), "history": name, **summary_row(found)}
            rows_out.append(row | change_row(found, of_group["own"], np.arange(inside.sum())))
    write_csv(HERE / "results.csv", rows_out)


def _own_interactions(users: list[str]) -> Any:
    """Count the interactions in the target's domain before each user's test target."""
    sequences = read_sequences(QUALITY / "data/leave_one_out/sequences")
    count = {}
    for target in sequences.targets(TEST):
        user = sequences.user[target]
        before = sequences.domain[sequences.offsets[user] : target]
        count[sequences.user_id[user]] = int((before == sequences.domain[target]).sum())
    return np.array([count[user] for user in users])


if __name__ == "__main__":
    commands = {function.__name__: function for function in (train, results)}
    with reported_errors(" ".join(sys.argv[1:])):
        commands[sys.argv[1]](*sys.argv[2:])
