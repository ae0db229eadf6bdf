"""The MLflow run of a stage: parameters, metrics, tags and inputs, written to a journal that is sent to MLflow."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tapestry.core.checkout import find_checkout
from tapestry.provenance.dvc_files import split_stage
from tapestry.provenance.git import git_commit
from tapestry.provenance.hashes import code_hash, content_hash
from tapestry.tracking.delivery import sending
from tapestry.tracking.hardware import Sampler, describe_machine, peak_memory, used_device
from tapestry.tracking.inputs import stage_inputs
from tapestry.tracking.journal import Journal, now_ms
from tapestry.tracking.names import flatten_metrics
from tapestry.tracking.packages import PACKAGES_FILE, installed_packages, packages_text
from tapestry.tracking.pipeline import dvc_experiment, experiment_name, pipeline_id
from tapestry.tracking.store import shown_uri


class StageRun:
    """The MLflow run of a stage that is running; its methods write to the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters. MLflow accepts only one value for each."""
        self._journal.write("params", {key: str(value) for key, value in params.items()})

    def log_metrics(self, metrics: Mapping[str, Any], prefix: str, step: int = 0) -> None:
        """Log nested metrics as `prefix/outer/inner`; values that are no numbers are skipped."""
        self.log_points(flatten_metrics(metrics, prefix), step)

    def log_points(self, figures: Mapping[str, float], step: int = 0) -> None:
        """Log metrics by their full names."""
        now = now_ms()
        self._journal.write("metrics", [[key, value, now, step] for key, value in figures.items()])

    def tag(self, **tags: str) -> None:
        """Set tags; a later value of a tag replaces an earlier one."""
        self._journal.write("tags", tags)

    def log_input(self, path: Path, context: str) -> str:
        """Log a file or folder that the run reads, for the purpose `context` such as training; return its content hash.

        MLflow shows it among the run's datasets, named by its path below `data/`, such as `raw/Books`.
        """
        digest = content_hash(path)
        name = path.as_posix().removeprefix("data/")
        self._journal.write("input", {"name": name, "digest": digest, "source": path.as_posix(), "context": context})
        return digest


class _NoJournal(Journal):
    """Takes what a run logs, and writes it nowhere."""

    def __init__(self) -> None:
        pass

    def write(self, kind: str, value: Any) -> None:
        """Do nothing."""


@contextmanager
def stage_run(stage: str, params: Mapping[str, Any], logged: bool = True) -> Iterator[StageRun]:
    """Create the MLflow run of a stage; its status is FINISHED, or FAILED if the body raises, KILLED after Ctrl-C.

    Args:
        stage: the stage's name in dvc.yaml, such as `ingest@Books`.
        params: the parameters that the stage reads, as {"ingest.threads": 2, …}.
        logged: False in all but one of several processes that do the stage's work together.
    """
    if not logged:
        yield StageRun(_NoJournal())
        return
    with _logged(stage, split_stage(stage) | {"pipeline": pipeline_id()}, params, stage, Path()) as run:
        yield run


@contextmanager
def trial_run(params: Mapping[str, Any]) -> Iterator[StageRun]:
    """Create the MLflow run of a training that belongs to a study: of the stage that DVC runs in the study's folder.

    Its tags are `study`, such as `studies/tuning`, and `trial`, such as `short@hybrid_state-3`, in place of `stage`: so
    nothing that looks for the pipeline's runs finds it.
    """
    root = find_checkout()
    study, trial = Path.cwd().resolve().relative_to(root).as_posix(), os.environ["DVC_STAGE"].rpartition(":")[2]
    with _logged(f"{study} {trial}", {"study": study, "trial": trial}, params, trial, root) as run:
        yield run


@contextmanager
def _logged(
    name: str, tags: Mapping[str, str], params: Mapping[str, Any], stage: str, root: Path
) -> Iterator[StageRun]:
    """Create the MLflow run `name` of a stage of ./dvc.yaml; `root` is that of its checkout."""
    journal = Journal(shown_uri())
    run = StageRun(journal)
    started = now_ms()
    inputs = stage_inputs(stage)
    packages = packages_text(installed_packages())
    commit = git_commit(root)
    tags = {
        **tags,
        "git_commit": commit,
        "code_hash": code_hash(root),
        "dvc_exp": dvc_experiment(),
        "dvc_inputs": inputs.as_json(),
        "packages": hashlib.sha256(packages.encode()).hexdigest(),
        **describe_machine(),
    }
    journal.write("run", {"name": f"{name} · {experiment_name(commit)}", "start": started, "tags": tags})
    journal.add_text_artifact(packages, PACKAGES_FILE)
    run.log_params(params)
    with sending(journal), _measured(journal, run, started):
        try:
            yield run
        finally:
            _report_changed_inputs(stage, inputs.changed(), run)


@contextmanager
def _measured(journal: Journal, run: StageRun, started: int) -> Iterator[None]:
    """Log the stage's resource usage while the block runs, then its duration, peak memory and status."""
    sampler = Sampler(run.log_points)
    sampler.start()
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except BaseException as error:
        run.tag(error=f"{type(error).__name__}: {error}"[:5000])
        raise
    finally:
        run.tag(**used_device())
        sampler.stop()
        ended = now_ms()
        run.log_metrics({"duration_seconds": (ended - started) / 1000, "peak_memory_mb": peak_memory()}, "stage")
        journal.write("end", {"status": status, "time": ended})


def _report_changed_inputs(stage: str, changed: list[str], run: StageRun) -> None:
    """Warn that DVC will write hashes of changed inputs to dvc.lock, though the stage read the old content."""
    if changed:
        run.tag(inputs_changed=json.dumps(changed))
        print(
            f"{stage}: {', '.join(changed)} changed while the stage ran: DVC records the new content, the stage read "
            f"the old one; run `dvc repro --single-item --force {stage}`",
            file=sys.stderr,
        )
