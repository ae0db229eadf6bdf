"""What is logged to MLflow: one row a trained model, one a run of a data stage.

Runs are tied together by content: evaluation finds the row of the model it read by the hash of its files.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tapestry.errors import TapestryError, for_terminal
from tapestry.failures import explain
from tapestry.provenance import dvc_experiment, git_commit
from tapestry.store import open_store, store_file, store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BATCH = 1000


@dataclass(frozen=True)
class Run:
    """An MLflow run that a stage logs to."""

    client: MlflowClient
    run_id: str

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; each may be logged once with one value."""
        from mlflow.entities import Param

        entities = [Param(key, str(value)) for key, value in params.items()]
        for first in range(0, len(entities), 100):
            self.client.log_batch(self.run_id, params=entities[first : first + 100])

    def log_metrics(self, metrics: Mapping[str, Any], prefix: str, step: int = 0) -> None:
        """Log nested figures as `prefix/outer/inner`; what is no number is left out."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        entities = [Metric(key, value, now, step) for key, value in flatten_metrics(metrics, prefix).items()]
        for first in range(0, len(entities), _BATCH):
            self.client.log_batch(self.run_id, metrics=entities[first : first + _BATCH])

    def tag(self, **tags: str) -> None:
        for key, value in tags.items():
            self.client.set_tag(self.run_id, key, value)


@contextmanager
def stage_run(stage: str, params: Mapping[str, Any]) -> Iterator[Run]:
    """A new run of a stage, finished, or failed if the body raises. A TapestryError ends the process.

    Args:
        stage: the stage's name in dvc.yaml, such as `ingest@Books`.
        params: what the stage reads, as {"ingest.threads": 2, …}.
    """
    with reported_errors(stage):
        client, experiment_id = open_store()
        with _new_run(client, experiment_id, stage, params) as run:
            yield run


@contextmanager
def model_run(model_hash: str, params: Mapping[str, Any]) -> Iterator[Run]:
    """The row of the trained model with this hash, to log its test figures to.

    Where the store has none (the model came from DVC's cache), a row is made from `params`, the model's
    own, and tagged `restored`.
    """
    with reported_errors("evaluate"):
        client, experiment_id = open_store()
        found = client.search_runs(
            [experiment_id],
            filter_string=f"tags.model_hash = '{model_hash}' AND tags.stage = 'train'",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        if found:
            yield Run(client, found[0].info.run_id)
            return
        with _new_run(client, experiment_id, "train", params) as run:
            run.tag(model_hash=model_hash, restored="true")
            yield run


@contextmanager
def reported_errors(stage: str) -> Iterator[None]:
    """Print a TapestryError, or an error of the operating system that a user can mend, in place of a traceback.

    Raises:
        SystemExit: with 1, after such an error.
    """
    try:
        yield
    except Exception as error:
        message = str(error) if isinstance(error, TapestryError) else explain(error, str(store_file() or store_uri()))
        if message is None:
            raise
        print(f"{stage}: error: {for_terminal(message)}", file=sys.stderr)
        raise SystemExit(1) from None


def flatten_metrics(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """{"all": {"hr_10": 0.1}} with prefix `test` → {"test/all/hr_10": 0.1}."""
    flat: dict[str, float] = {}
    for key, value in metrics.items():
        name = f"{prefix}/{key}"
        if isinstance(value, Mapping):
            flat |= flatten_metrics(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[name] = float(value)
    return flat


@contextmanager
def _new_run(client: MlflowClient, experiment_id: str, stage: str, params: Mapping[str, Any]) -> Iterator[Run]:
    """A row of `stage` with its tags and parameters; FINISHED, or FAILED with the reason if the body raises."""
    experiment = dvc_experiment()
    run = Run(client, client.create_run(experiment_id, run_name=experiment or stage).info.run_id)
    name, _, domain = stage.partition("@")
    run.tag(stage=name, git_commit=git_commit(), dvc_exp=experiment)
    if domain:
        run.tag(domain=domain)
    run.log_params(params)
    try:
        yield run
    except BaseException as error:
        run.tag(error=f"{type(error).__name__}: {error}"[:5000])
        client.set_terminated(run.run_id, "FAILED")
        raise
    client.set_terminated(run.run_id, "FINISHED")
