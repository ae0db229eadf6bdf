"""What MLflow has of a checkout's runs, read once."""

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
from tapestry.tracking.delivery import explained
from tapestry.tracking.experiment import MODEL_STAGE, PARENT, md5_tags, stage_name
from tapestry.tracking.journal import left_journals
from tapestry.tracking.rows import find_runs
from tapestry.tracking.store import EXPERIMENT, open_store, shown_uri, store_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


class Records:
    """The rows of the experiment `tapestry`, the oldest first."""

    def __init__(self, client: MlflowClient, experiment_id: str) -> None:
        self.client = client
        self.experiment_id = experiment_id
        self._texts: dict[tuple[str, str], bytes | None] = {}

    @cached_property
    def runs(self) -> list[Run]:
        return find_runs(self.client, self.experiment_id, {})

    @property
    def models(self) -> list[Run]:
        return [run for run in self.runs if run.data.tags.get("stage") == MODEL_STAGE]

    def model_row(self, lock: str, model_hash: str) -> Run | None:
        """The newest row of this dvc.lock (as `lock_hash` has it), or else of this model."""
        for tag, value in (("dvc_lock", lock), ("model_hash", model_hash)):
            found = [run for run in self.models if run.data.tags.get(tag) == value]
            if found:
                return found[-1]
        return None

    def under(self, row: Run) -> dict[str, Run]:
        """The rows of an experiment by stage, the model's own included."""
        found = [run for run in self.runs if run.data.tags.get(PARENT) == row.info.run_id]
        return {stage_name(run): run for run in found} | {MODEL_STAGE: row}

    def makers(self, stage: str, entry: Mapping[str, Any], hashes: Mapping[str, str]) -> list[Run]:
        """The runs that made a stage's outputs, the newest first: by DVC's hashes, or by those of `hashes` (tags).

        Args:
            entry: the stage's in dvc.lock.
        """
        wanted = md5_tags(locked(entry)["md5"])
        found = []
        for run in self.ran(stage):
            tags = run.data.tags
            if any(_all_in(tags, some) for some in (wanted, dict(hashes)) if some):
                found.append(run)
        return found[::-1]

    def ran(self, stage: str) -> list[Run]:
        """The runs of a stage that weren't restored, and ended well."""
        return [
            run
            for run in self.runs
            if stage_name(run) == stage and run.data.tags.get("restored") != "true" and run.info.status == "FINISHED"
        ]

    def artifact(self, run: Run, name: str) -> bytes | None:
        """The content of an artifact; None if it isn't there or can't be had."""
        key = (run.info.run_id, name)
        if key not in self._texts:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    path = Path(self.client.download_artifacts(run.info.run_id, name, folder))
                    self._texts[key] = path.read_bytes()
                except Exception:  # MLflow's errors are of many classes, those of artifact stores not even its own
                    self._texts[key] = None
        return self._texts[key]

    def history(self, run: Run, name: str) -> list[tuple[int, float]]:
        """All values of a figure: step and value."""
        return [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, name)]


def open_records() -> Records:
    """The checkout's store, which isn't made where there is none.

    Raises:
        NoEvidenceError: there is no store, or it can't be read.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    file = store_file()
    left = ", and `tapestry sync`, since runs wait to be sent" if left_journals() else ""
    if file is not None and not file.exists():
        raise NoEvidenceError(f"there is no MLflow store ({file.name} is not there)", f"run `dvc repro`{left}")
    try:
        records = Records(*open_store())
        if not records.runs:
            raise NoEvidenceError(f"MLflow's experiment {EXPERIMENT} has no runs", f"run `dvc repro`{left}")
    except TapestryError as error:
        raise NoEvidenceError(f"MLflow can't be read: {error}") from error
    except NoEvidenceError:
        raise
    except Exception as error:
        raise NoEvidenceError(f"MLflow can't be read: {explained(error)}", f"see to {one_line(shown_uri())}") from error
    return records


def shown_run(run: Run) -> str:
    """A run as messages name it."""
    return f"{run.info.run_name} ({run.info.run_id})"


def inputs_of(run: Run) -> dict[str, str] | None:
    """The MD5 of each input as the stage found it when it began; None if the row doesn't say."""
    try:
        return dict(json.loads(run.data.tags["dvc_inputs"]))
    except (KeyError, ValueError, TypeError):
        return None


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _all_in(tags: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    items: Iterable[tuple[str, str]] = wanted.items()
    return all(tags.get(key) == value for key, value in items)
