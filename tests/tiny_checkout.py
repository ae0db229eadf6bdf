"""A small checkout of the working tree that is quick to reproduce, and helpers to run it and read its MLflow runs."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from checkouts import ROOT, completed, make_repository, set_parameters
from ruamel.yaml import YAML

from tapestry.parameters import Parameters
from tapestry.provenance.dvc_files import ALWAYS
from tapestry.source.source import fetch

DOMAINS = ("Books", "Toys")
BASELINES = ("popularity", "recent_popularity", "item_knn")
_LEFT_OUT = ("metrics/", "dvc.lock")  # those of the working tree's own pipeline
NARROW = (
    "model.state_dim=4",
    "train.epochs=3",
    "train.stop_by=domain_mrr",
)  # of the experiment `narrow` in the fixture `narrowed`


def read_yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text())


def stage_names(of: str, domains: Sequence[str] = DOMAINS) -> set[str]:
    """Return the names in dvc.lock of a stage of dvc.yaml."""
    items = {"fetch": domains, "ingest": domains, "baseline": BASELINES}.get(of)
    return {of} if items is None else {f"{of}@{item}" for item in items}


def run(command: list[str], folder: Path) -> str:
    """Run a command in a checkout with this interpreter first on PATH, and return its output."""
    done = completed(command, folder)
    return done.stdout + done.stderr


def run_for_output(command: list[str], folder: Path) -> str:
    """Run a command as `run` does, and return only its standard output."""
    return completed(command, folder).stdout


def repro(folder: Path) -> set[str]:
    """Run `dvc repro`; return the stages that it ran, without those that always run."""
    return _ran(run(["dvc", "repro"], folder))


def experiment(folder: Path, *options: str) -> set[str]:
    """Run `dvc exp run`; return the stages that it ran, without those that always run."""
    return _ran(run(["dvc", "exp", "run", *options], folder))


def _ran(printed: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", printed)) - set(ALWAYS)


def make_checkout(
    folder: Path,
    parameters: Parameters,
    domains: Sequence[str] = DOMAINS,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Copy the working tree, with a tiny configuration and raw files; commit it and reproduce it once.

    Args:
        changes: further parameters, such as {"train.epochs": 3}.
    """
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(_LEFT_OUT):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    tiny: dict[str, dict[str, Any]] = {
        "source": {"release": "files", "domains": list(domains), "path": "raw"},
        "synthetic": {"users": 150, "items": 30, "interests": 5},
        "model": {"width": 8, "state_dim": 8, "heads": 2, "layers": 1, "attention": "intra"},
        "train": {"epochs": 2, "threads": 1},
        "evaluate": {"threads": 1, "neighbours": 5},
    }
    settings = {f"{part}.{key}": value for part, values in tiny.items() for key, value in values.items()}
    set_parameters(folder, settings | dict(changes))
    make_raw_files(folder, parameters, domains)
    make_repository(folder)
    everything = {name for stage in read_yaml(folder / "dvc.yaml")["stages"] for name in stage_names(stage, domains)}
    assert repro(folder) == everything - set(ALWAYS)


def make_raw_files(folder: Path, parameters: Parameters, domains: Sequence[str]) -> None:
    source = dataclasses.replace(parameters.source, domains=tuple(domains))
    simulator = dataclasses.replace(parameters.synthetic, users=150, items=30, interests=5)
    (folder / "raw").mkdir()
    for domain in domains:
        file = fetch(source, simulator, domain, folder / "fetched")
        shutil.copy(file, folder / "raw" / file.name)
    shutil.rmtree(folder / "fetched")


def sync(folder: Path) -> None:
    """Send the runs of stages that were started by hand: the stage `record` sends those of a whole pipeline."""
    run(["tapestry", "sync"], folder)


def runs_of(folder: Path, stage: str | None = None) -> list[Any]:
    """Return the runs in the checkout's store, of one stage or of all, the oldest first."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tapestry")
    assert experiment is not None
    condition = "" if stage is None else f"tags.stage = '{stage}'"
    order = ["attributes.start_time ASC"]
    return list(client.search_runs([experiment.experiment_id], condition, order_by=order, max_results=1000))
