"""What a stage tells MLflow of itself: one row a stage that ran, kept on this machine until MLflow has it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tapestry.provenance.git import git_commit
from tapestry.provenance.hashes import code_hash, content_hash
from tapestry.tracking.delivery import sent
from tapestry.tracking.hardware import Sampler, describe_machine, peak_memory, used_device
from tapestry.tracking.inputs import stage_inputs
from tapestry.tracking.journal import Journal, now_ms
from tapestry.tracking.names import flatten_metrics
from tapestry.tracking.packages import PACKAGES, installed_packages, packages_text
from tapestry.tracking.pipeline import dvc_experiment, experiment_name, pipeline_id
from tapestry.tracking.store import shown_uri


class Run:
    """A stage's row, as its journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; each may be logged once with one value."""
        self._journal.write("params", {key: str(value) for key, value in params.items()})

    def log_metrics(self, metrics: Mapping[str, Any], prefix: str, step: int = 0) -> None:
        """Log nested figures as `prefix/outer/inner`; what is no number is left out."""
        self.log_points(flatten_metrics(metrics, prefix), step)

    def log_points(self, figures: Mapping[str, float], step: int = 0) -> None:
        """Log figures by their whole names."""
        now = now_ms()
        self._journal.write("metrics", [[key, value, now, step] for key, value in figures.items()])

    def tag(self, **tags: str) -> None:
        self._journal.write("tags", tags)

    def read(self, path: Path, context: str) -> str:
        """Say that the run reads this file or folder as it is now, for `context`, such as training; its content hash.

        MLflow keeps it among the run's datasets, under the path from `data/` on, such as `raw/Books`.
        """
        digest = content_hash(path)
        name = path.as_posix().removeprefix("data/")
        self._journal.write("input", {"name": name, "digest": digest, "source": path.as_posix(), "context": context})
        return digest

    def keep(self, path: Path, name: str) -> None:
        """Keep a file, or a folder's files, as they are now, as the artifact of that name."""
        self._journal.keep(path, name)


@contextmanager
def stage_run(stage: str, params: Mapping[str, Any]) -> Iterator[Run]:
    """A new row of a stage, finished, or failed if the body raises.

    Args:
        stage: the stage's name in dvc.yaml, such as `ingest@Books`.
        params: what the stage reads, as {"ingest.threads": 2, …}.
    """
    journal = Journal(shown_uri())
    run = Run(journal)
    started = now_ms()
    inputs = stage_inputs(stage)
    packages = packages_text(installed_packages())
    name, _, domain = stage.partition("@")
    commit = git_commit()
    tags = {
        "stage": name,
        "git_commit": commit,
        "code_hash": code_hash(),
        "dvc_exp": dvc_experiment(),
        "pipeline": pipeline_id(),
        "dvc_inputs": inputs.as_json(),
        "packages": hashlib.sha256(packages.encode()).hexdigest(),
        **({"domain": domain} if domain else {}),
        **describe_machine(),
    }
    journal.write("run", {"name": f"{stage} · {experiment_name(commit)}", "start": started, "tags": tags})
    journal.keep_text(packages, PACKAGES)
    run.log_params(params)
    with sent(journal), _measured(journal, run, started):
        try:
            yield run
        finally:
            _tell_changed(stage, inputs.changed(), run)


@contextmanager
def _measured(journal: Journal, run: Run, started: int) -> Iterator[None]:
    """How a stage goes and ends: what it takes of the machine meanwhile, its duration, and how it ended."""
    sampler = Sampler(run)
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


def _tell_changed(stage: str, changed: list[str], run: Run) -> None:
    """Say that dvc.lock is about to have content that the stage didn't read."""
    if changed:
        run.tag(inputs_changed=json.dumps(changed))
        print(
            f"{stage}: {', '.join(changed)} changed while the stage ran: DVC notes the new content, the stage read the "
            f"old one; run `dvc repro --single-item --force {stage}`",
            file=sys.stderr,
        )
