"""Which run of the pipeline a stage belongs to: its DVC process tells, since stages are told nothing of it."""

from __future__ import annotations

import hashlib
import os
import platform

import psutil

_SHORT = 7  # characters of a commit in a name


def pipeline_id() -> str:
    """The same in all stages of one `dvc repro` or experiment, and in no others; empty outside DVC."""
    if "DVC_STAGE" not in os.environ:
        return ""
    dvc = _dvc_process()
    identity = f"{platform.node()} {dvc.pid} {dvc.create_time()} {dvc_experiment()}"
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def experiment_name(git_commit: str) -> str:
    """NAME in `ingest@Books · NAME`: the experiment's, or else the commit's, with a + where code differs from it."""
    commit, _, dirty = git_commit.partition("-")
    return dvc_experiment() or commit[:_SHORT] + ("+" if dirty else "")


def dvc_experiment() -> str:
    """The DVC experiment that this process runs in; empty outside `dvc exp run`."""
    return os.environ.get("DVC_EXP_NAME", "")


def _dvc_process() -> psutil.Process:
    """The nearest process above that isn't itself in a stage; between it and us there may be a shell."""
    process = psutil.Process()
    for parent in process.parents():
        process = parent
        try:
            if "DVC_STAGE" not in parent.environ():
                break
        except psutil.Error:  # another user's process: no shell of the stage
            break
    return process
