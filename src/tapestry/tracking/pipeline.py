"""Identify the execution of the pipeline that a stage belongs to, by its DVC process: DVC passes no id to stages."""

from __future__ import annotations

import hashlib
import os
import platform

import psutil

_SHORT = 7  # characters of a commit in a name


def pipeline_id() -> str:
    """Return an id that all stages of one `dvc repro` or experiment share, and no others; empty outside DVC."""
    if "DVC_STAGE" not in os.environ:
        return ""
    dvc = _dvc_process()
    identity = f"{platform.node()} {dvc.pid} {dvc.create_time()} {dvc_experiment()}"
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def experiment_name(git_commit: str) -> str:
    """Return NAME in `ingest@Books · NAME`: the experiment's name, or else the short commit hash.

    A `+` follows the hash if code has uncommitted changes.
    """
    commit, _, dirty = git_commit.partition("-")
    return dvc_experiment() or commit[:_SHORT] + ("+" if dirty else "")


def dvc_experiment() -> str:
    """Return the name of the DVC experiment that this process runs in; empty outside `dvc exp run`."""
    return os.environ.get("DVC_EXP_NAME", "")


def _dvc_process() -> psutil.Process:
    """Return the nearest parent process that doesn't run in a stage itself; a shell may be in between."""
    process = psutil.Process()
    for parent in process.parents():
        process = parent
        try:
            if "DVC_STAGE" not in parent.environ():
                break
        except psutil.Error:  # another user's process, so it isn't the stage's shell
            break
    return process
