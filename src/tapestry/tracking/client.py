"""Requests to MLflow: logging in batches of the size that it accepts, and searching runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

Point = tuple[str, float, int, int]
"""One value of a metric: name, value, time in ms, step."""

_METRICS, _PARAMS, _TAGS = 1000, 100, 100  # MLflow's limits of one batch
_MAX_PARAM, _MAX_TAG = 6000, 5000  # characters
_DIGEST = 36  # characters of a dataset's digest


def log(
    client: MlflowClient,
    run_id: str,
    metrics: Iterable[Point] = (),
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Log metrics, parameters and tags; values longer than MLflow's limits are truncated."""
    from mlflow.entities import Metric, Param, RunTag

    points = [Metric(*metric) for metric in metrics]
    settings = [Param(key, value[:_MAX_PARAM]) for key, value in (params or {}).items()]
    labels = [RunTag(key, value[:_MAX_TAG]) for key, value in (tags or {}).items()]
    for first in range(0, len(points), _METRICS):
        client.log_batch(run_id, metrics=points[first : first + _METRICS])
    for first in range(0, len(settings), _PARAMS):
        client.log_batch(run_id, params=settings[first : first + _PARAMS])
    for first in range(0, len(labels), _TAGS):
        client.log_batch(run_id, tags=labels[first : first + _TAGS])


def log_input(client: MlflowClient, run_id: str, value: Mapping[str, str]) -> None:
    """Log a dataset that a run reads: {"name", "digest" (of its content), "source", "context"}."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(value["name"], value["digest"][:_DIGEST], "local", value["source"])
    client.log_inputs(run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", value["context"])])])


def log_file(client: MlflowClient, run_id: str, path: Path, name: str) -> None:
    """Log a file, or a folder's files, as the artifact of that name."""
    if path.is_dir():
        client.log_artifacts(run_id, str(path), name)
        return
    parent = Path(name).parent.as_posix()
    client.log_artifact(run_id, str(path), None if parent == "." else parent)


def find_runs(client: MlflowClient, experiment_id: str, tags: Mapping[str, str], deleted: bool = False) -> list[Run]:
    """List the runs that have all these tags, the oldest first; `deleted` includes runs that a user deleted."""
    from mlflow.entities import ViewType

    conditions = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    order = ["attributes.start_time ASC"]
    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], conditions, view, order_by=order, page_token=token)
        found.extend(page)
        token = page.token
        if not token:
            return found
