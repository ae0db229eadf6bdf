"""The claim `inputs`: each stage read the inputs that dvc.lock lists, though DVC hashes them after the stage ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tapestry.audit.claims import Finding, failed, or_passed, unknown
from tapestry.audit.evidence import Evidence
from tapestry.audit.records import inputs_of, shown_run
from tapestry.provenance.dvc_files import ALWAYS, locked
from tapestry.tracking.experiment import STAGES_WITHOUT_RUN

if TYPE_CHECKING:
    from mlflow.entities import Run


def check_inputs(evidence: Evidence) -> list[Finding]:
    """Check that a recorded run of each stage started with the inputs of dvc.lock, and that they stayed unchanged."""
    stages = [stage for stage in evidence.lock if stage not in (*ALWAYS, *STAGES_WITHOUT_RUN)]
    findings = [finding for stage in stages for finding in _stage(evidence, stage)]
    return or_passed(findings, f"{len(stages)} stages started with the inputs of dvc.lock")


def _stage(evidence: Evidence, stage: str) -> list[Finding]:
    mend = f"run `dvc repro --single-item --force {stage}`, then `dvc repro`"
    makers = evidence.makers(stage)
    if not makers:
        return [unknown(f"{stage}: no recorded run produced its outputs", mend)]
    deps = locked(evidence.lock[stage])["deps"]
    if any(_differences(run, deps) == [] and not _changed(run) for run in makers):
        return []
    run = makers[0]
    if _changed(run):
        text = f"{stage}: {', '.join(_changed(run))} changed while it ran ({shown_run(run)})"
        return [failed(text, mend)]
    if inputs_of(run) is None:
        return [unknown(f"{stage}: {shown_run(run)} has no record of its inputs", mend)]
    own = evidence.records.stage_runs(evidence.model_run).get(stage)
    text = f"{stage}: {'; '.join(_differences(run, deps))} ({shown_run(run)})"
    if own is not None and own.info.run_id == run.info.run_id:
        return [failed(text, mend)]
    return [unknown(f"{text}: no recorded run produced the same outputs from the inputs of dvc.lock", mend)]


def _differences(run: Run, deps: dict[str, str]) -> list[str]:
    """List the inputs whose content at a run's start differs from dvc.lock."""
    found = inputs_of(run)
    if found is None:
        return ["its inputs aren't recorded"]
    return [
        f"{path} had the MD5 {found.get(path)} at the start, dvc.lock has {md5}"
        for path, md5 in deps.items()
        if found.get(path) != md5
    ]


def _changed(run: Run) -> list[str]:
    return [str(path) for path in json.loads(run.data.tags.get("inputs_changed", "[]"))]
