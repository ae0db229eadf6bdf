"""The MLflow runs of a checkout, read once."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapestry.audit.claims import NoEvidenceError
from tapestry.core.errors import TapestryError, one_line
from tapestry.provenance.dvc_files import locked
from tapestry.tracking.client import find_runs
from tapestry.tracking.delivery import describe_store_error
from tapestry.tracking.experiment import MODEL_STAGE, PARENT, md5_tags, stage_name
from tapestry.tracking.journal import pending_journals
from tapestry.tracking.store import EXPERIMENT, open_store, shown_uri, store_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


class Records:
    """The runs of the experiment `tapestry`, the oldest first."""

    def __init__(self, client: MlflowClient, experiment_id: str) -> None:
        self.client = client
        self.experiment_id = experiment_id
        self._texts: dict[tuple[str, str], bytes | None] = {}

    @cached_property
    def runs(self) -> list[Run]:
        """All runs of the experiment."""
        return find_runs(self.client, self.experiment_id, {})

    @property
    def models(self) -> list[Run]:
        """The runs of the stage train; each is the run of a model."""
        return [run for run in self.runs if run.data.tags.get("stage") == MODEL_STAGE]

    def find_model_run(self, lock: str, model_hash: str) -> Run | None:
        """Return the newest run with this dvc.lock (hash by `lock_hash`), or else with this model; None if none has."""
        for tag, value in (("dvc_lock", lock), ("model_hash", model_hash)):
            found = [run for run in self.models if run.data.tags.get(tag) == value]
            if found:
                return found[-1]
        return None

    def stage_runs(self, model_run: Run) -> dict[str, Run]:
        """Return the runs of an experiment by stage, including the model's run."""
        found = [run for run in self.runs if run.data.tags.get(PARENT) == model_run.info.run_id]
        return {stage_name(run): run for run in found} | {MODEL_STAGE: model_run}

    def makers(self, stage: str, entry: Mapping[str, Any], hashes: Mapping[str, str]) -> list[Run]:
        """List the runs that produced a stage's outputs, the newest first.

        A run matches if its tags have DVC's hashes of the outputs, or all tags in `hashes`.

        Args:
            entry: the stage's entry in dvc.lock.
        """
        wanted = md5_tags(locked(entry)["md5"])
        found = []
        for run in self.ran(stage):
            tags = run.data.tags
            if any(_all_in(tags, some) for some in (wanted, dict(hashes)) if some):
                found.append(run)
        return found[::-1]

    def ran(self, stage: str) -> list[Run]:
        """List the runs in which a stage was executed, not restored, and finished."""
        return [
            run
            for run in self.runs
            if stage_name(run) == stage and run.data.tags.get("restored") != "true" and run.info.status == "FINISHED"
        ]

    def artifact(self, run: Run, name: str) -> bytes | None:
        """Return the content of an artifact; None if it is missing or can't be read."""
        key = (run.info.run_id, name)
        if key not in self._texts:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    path = Path(self.client.download_artifacts(run.info.run_id, name, folder))
                    self._texts[key] = path.read_bytes()
                except Exception:  # MLflow and its artifact stores raise many classes
                    self._texts[key] = None
        return self._texts[key]

    def history(self, run: Run, name: str) -> list[tuple[int, float]]:
        """Return all values of a metric as tuples (step, value)."""
        return [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, name)]


def open_records() -> Records:
    """Open the checkout's store; unlike `open_store`, don't create it.

    Raises:
        NoEvidenceError: there is no store, or it can't be read.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    file = store_file()
    sync = ", and `tapestry sync`, since runs wait to be sent" if pending_journals() else ""
    if file is not None and not file.exists():
        raise NoEvidenceError(f"there is no MLflow store ({file.name} is missing)", f"run `dvc repro`{sync}")
    try:
        records = Records(*open_store())
        if not records.runs:
            raise NoEvidenceError(f"MLflow's experiment {EXPERIMENT} has no runs", f"run `dvc repro`{sync}")
    except TapestryError as error:
        raise NoEvidenceError(f"MLflow can't be read: {error}") from error
    except NoEvidenceError:
        raise
    except Exception as error:
        text = f"MLflow can't be read: {describe_store_error(error)}"
        raise NoEvidenceError(text, f"check {one_line(shown_uri())}") from error
    return records


def shown_run(run: Run) -> str:
    """Name a run in a message: its name and id."""
    return f"{run.info.run_name} ({run.info.run_id})"


def inputs_of(run: Run) -> dict[str, str] | None:
    """Return the MD5 of each input at the start of a run; None if the run didn't record them."""
    try:
        return dict(json.loads(run.data.tags["dvc_inputs"]))
    except (KeyError, ValueError, TypeError):
        return None


def sha256(content: bytes) -> str:
    """Return the SHA-256 of a content, in hex."""
    return hashlib.sha256(content).hexdigest()


def _all_in(tags: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    items: Iterable[tuple[str, str]] = wanted.items()
    return all(tags.get(key) == value for key, value in items)
