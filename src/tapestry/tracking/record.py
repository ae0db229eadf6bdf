"""Collect what the model's MLflow run holds, from dvc.lock and the files that DVC produced or restored.

To keep one more file in MLflow, add its path to `ARTIFACTS`: the stage `record` logs each of them as an artifact of
the model's run, and `tapestry audit` checks that each can be opened.
"""

from __future__ import annotations

import csv
import os
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tapestry.core.checkout import read_json, require_made
from tapestry.core.errors import TapestryError
from tapestry.core.settings import flatten
from tapestry.core.yaml_file import read_yaml
from tapestry.parameters import Parameters
from tapestry.provenance.dvc_files import Locked, declared_stages, lock_hash, read_lock
from tapestry.provenance.git import git_commit
from tapestry.provenance.hashes import code_hash, content_hash
from tapestry.tracking.delivery import sending
from tapestry.tracking.experiment import MODEL_STAGE, REPORT
from tapestry.tracking.journal import Journal, now_ms, pending_journals
from tapestry.tracking.names import COMPARED_BY, TRAINING_METRICS, curve_metrics, flatten_metrics
from tapestry.tracking.pipeline import dvc_experiment, experiment_name, pipeline_id
from tapestry.tracking.sqlite import has_run
from tapestry.tracking.store import EXPERIMENT, shown_uri, store_file

FIGURES = ("summary.json", "test.json", "train.json", "data.json", "curve.csv", "cutoffs.csv")
ARTIFACTS = (REPORT, "models/config.json", "params.yaml", "dvc.lock", *(f"metrics/{n}" for n in FIGURES))
"""The files that MLflow keeps as artifacts of the model's run, relative to the checkout.

Each is a file that git has or that an earlier stage makes. They are logged as they are;
`tapestry.tracking.experiment` adds the report's origin (commit, experiment, hardware).
"""


def record(parameters: Parameters) -> None:
    """Complete the model's run in MLflow; if MLflow isn't available, keep the data until it is.

    Raises:
        TapestryError: not started by DVC, or an artifact is missing or damaged.
    """
    if "DVC_STAGE" not in os.environ:
        raise TapestryError("record: logs the contents of dvc.lock to MLflow, so only `dvc repro` can run it")
    for name in ARTIFACTS:
        require_made(Path(name))
    # Without the stages that dvc.yaml no longer declares, which DVC leaves in dvc.lock.
    stages = read_lock(Path("dvc.lock"), declared_stages(read_yaml(Path("dvc.yaml")), read_yaml(Path("params.yaml"))))
    if _is_recorded(stages):
        return
    experiment = collect(parameters, stages)
    journal = Journal(shown_uri())
    with sending(journal, experiment["pipeline"]):
        for name in (*ARTIFACTS, "models", "data/sequences/items.parquet"):
            journal.add_artifact(Path(name), name)
        journal.write("experiment", experiment)


def _is_recorded(stages: Mapping[str, Locked]) -> bool:
    """Say whether this is a plain `dvc repro` that ran no stage, and the store has the run of its dvc.lock.

    `tapestry.tracking.experiment.complete` would find the same, and add nothing. It is seconds faster without MLflow,
    which only a store in a SQLite file allows.
    """
    file = store_file()
    if file is None or dvc_experiment() or pending_journals():
        return False
    with suppress(sqlite3.Error):  # no store yet, or one that MLflow is to explain
        same = has_run(file, EXPERIMENT, {"stage": MODEL_STAGE, "dvc_lock": lock_hash(stages)})
        return same and not has_run(file, EXPERIMENT, {"pipeline": pipeline_id()})
    return False


def collect(parameters: Parameters, stages: Mapping[str, Locked]) -> dict[str, Any]:
    """Collect all that the runs of this execution of the pipeline will hold, as JSON values.

    Args:
        stages: those of dvc.lock.
    """
    now = now_ms()
    metrics, commit = Path("metrics"), git_commit()
    test, train, summary = (read_json(metrics / f"{name}.json", "figures") for name in ("test", "train", "summary"))
    data_hash = content_hash(Path("data/sequences"))
    return {
        "name": experiment_name(commit),
        "time": now,
        "artifacts": ARTIFACTS,
        "validation": train["best"][COMPARED_BY],
        "exclude_seen": parameters.evaluate.exclude_seen,
        "pipeline": pipeline_id(),
        "dvc_exp": dvc_experiment(),
        "git_commit": commit,
        "code_hash": code_hash(),
        "params": {key: str(value) for key, value in flatten(parameters).items()},
        "figures": [[key, value, now, 0] for key, value in run_metrics(metrics).items()],
        "curve": [[key, value, now, epoch] for epoch, key, value in run_curve(metrics)],
        "inputs": [{"name": "sequences", "digest": data_hash, "source": "data/sequences", "context": "training"}],
        "tags": {
            "model_hash": content_hash(Path("models")),
            "data_hash": data_hash,
            "dvc_lock": lock_hash(stages),
            "mlflow.note.content": describe(parameters, summary, test),
        },
        "stages": stages,
    }


def run_metrics(metrics: Path) -> dict[str, float]:
    """Read the metrics of the model's run from the files of `metrics/`, by their names in MLflow.

    Raises:
        TapestryError: a file is missing or damaged.
    """
    test, train, summary = (read_json(metrics / f"{name}.json", "figures") for name in ("test", "train", "summary"))
    return {
        **flatten_metrics(test, "test"),
        **flatten_metrics({"gain_hr_100": summary["gain_hr_100"]}, "test"),
        **flatten_metrics({key: summary[key] for key in ("users", "items", "interactions", "delta")}, "data"),
        **flatten_metrics({k: v for k, v in train["best"].items() if k not in TRAINING_METRICS}, "val/best"),
    }


def run_curve(metrics: Path) -> list[tuple[int, str, float]]:
    """Read the training and validation curves from curve.csv, as tuples (epoch, name in MLflow, value).

    Raises:
        TapestryError: the file is missing.
    """
    with require_made(metrics / "curve.csv", "figures").open(encoding="utf-8", newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    return [(int(row["epoch"]), key, value) for row in rows for key, value in curve_metrics(row).items()]


def describe(parameters: Parameters, summary: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    """Summarise a model in one paragraph, for MLflow's description."""
    model, domains = parameters.model, len(parameters.source.domains)
    attention = {
        "intra": "attention within domains",
        "full": "attention over all domains",
        "intra_full": "attention within domains, over all domains in the last layer",
        "intra_and_full": "attention within domains beside attention over all domains, a stack of layers each",
    }[model.attention]
    parts = [attention, *(["TAPE"] if model.tape else [])]
    parts += [f"DDSR of {model.state_dim} by {model.fusion}"] if model.ddsr else []
    parts += ["state of the target's domain"] if model.target_state else []
    parts += ["month of the request"] if model.request_time else []
    parts += [f"recent counts by {model.recent_weight:g}"] if model.recent_weight else []
    parts += [f"neighbours by {model.neighbour_weight:g}"] if model.neighbour_weight else []
    layers = f"{model.layers} layer{'' if model.layers == 1 else 's'}"
    baselines = {name: figures["hr_100"] for name, figures in test["baselines"].items() if "hr_100" in figures}
    gain = summary["gain_hr_100"]
    best = f", {gain:+.1%} to {max(baselines, key=lambda name: baselines[name])}" if baselines and gain else ""
    return (
        f"{', '.join(parts)}; {layers} of {model.width}, window {model.window}. "
        f"{summary['users']:,} users, {summary['items']:,} items, {domains} domain{'' if domains == 1 else 's'} "
        f"({parameters.source.release}). Test: HR@10 {summary['hr_10']:.4f}, HR@100 {summary['hr_100']:.4f}{best}."
    )
