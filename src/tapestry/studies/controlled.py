"""A controlled study: recipes trained on data sets that differ in one factor.

The current folder is the study's. Its params.yaml has:

    data:                     # data sets by name: the simulator with other settings, or a folder of another study
      name: {domains: 5, synthetic: {key: value}, sessionize: {key: value}}
      six_domains: {folder: ../quality/data/leave_one_out}
    recipes:                  # what differs from the sections `model` and `train`, or a study that has trained it
      name: {name: in tables, model: {key: value}, train: {key: value}}    # and maybe line: of the picture
      full: {study: ../ablation}    # and maybe another name
    against: name             # of the recipe with which the others are compared
    picture: {...}            # see `tapestry.studies.pictures`

All other settings are in ../controlled.yaml. Commands:

    python -m tapestry.studies.controlled simulate DATA | train DATA RECIPE SEED
    python -m tapestry.studies.controlled_results results | show
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tapestry.core.atomic import atomic_folder, write_json
from tapestry.core.settings import load_section
from tapestry.core.splits import TEST, VALIDATION
from tapestry.core.yaml_file import read_yaml
from tapestry.evaluation.scoring import rank_by_model
from tapestry.ingest.settings import IngestSettings
from tapestry.model.network import Recommender
from tapestry.sequences.batches import trained_users
from tapestry.sequences.reader import read_sequences
from tapestry.sessionize.settings import SessionizeSettings
from tapestry.source.settings import SyntheticSettings
from tapestry.studies.command import run_command
from tapestry.studies.data import simulate_sequences
from tapestry.studies.popularity import popularity_figures, recommended_items
from tapestry.studies.trials import changed_section, run_recipe

PARAMS, SHARED = Path("params.yaml"), Path("../controlled.yaml")


def simulate(name: str) -> None:
    """Simulate a data set, and make its sequences."""
    level = read_yaml(PARAMS)["data"][name]
    simulator = changed_section(SyntheticSettings, "synthetic", level["synthetic"], SHARED)
    domains = tuple(f"domain_{number:02}" for number in range(level["domains"]))
    ingesting = load_section(IngestSettings, "ingest", SHARED)
    rules = changed_section(SessionizeSettings, "sessionize", level["sessionize"], SHARED)
    with atomic_folder(Path("data") / name) as folder:
        simulate_sequences(simulator, domains, ingesting, rules, folder)


def train(data: str, recipe: str, seed: str) -> None:
    """Train a recipe on a data set, and rank the test targets. figures.json gets what else the study tells of it."""
    sequences = read_sequences(data_folder(data) / "sequences")
    batch_users = read_yaml(SHARED)["evaluate"]["batch_users"]

    def write_figures(model: Recommender, folder: Path) -> None:
        targets = sequences.targets(TEST)
        figures: dict[str, Any] = {"parameters": sum(weight.numel() for weight in model.parameters())}
        # Overfitting: how much better targets rank that the model was trained on, the last of each user.
        trained = trained_users(sequences)
        last = sequences.offsets[trained] + sequences.train_length[trained] - 1
        for split, indices in (("train", last), ("validation", sequences.targets(VALIDATION))):
            rank = rank_by_model(model, sequences, indices, True, batch_users).rank
            figures[f"{split}_mrr"] = float((1 / rank).mean())
        figures["overfitting"] = figures["train_mrr"] / figures["validation_mrr"] - 1
        recommended_NK = recommended_items(model, sequences, targets, batch_users)
        write_json(folder / "figures.json", figures | popularity_figures(sequences, targets, recommended_NK))

    folder = Path("runs") / data / recipe / seed
    run_recipe(sequences, read_yaml(PARAMS)["recipes"][recipe], int(seed), SHARED, folder, also=write_figures)


def data_folder(name: str) -> Path:
    """Return the folder of a data set: this study's, or another one's."""
    return Path(read_yaml(PARAMS)["data"][name].get("folder", Path("data") / name))


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {function.__name__: function for function in (simulate, train)}
    run_command(sys.argv[1:], commands)
