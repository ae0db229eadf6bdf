"""Inputs: each stage read what dvc.lock says; DVC itself looks only after a stage has ended."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tapestry.audit.claims import Finding, failed, or_passed, unknown
from tapestry.audit.evidence import Evidence
from tapestry.audit.records import inputs_of, shown_run
from tapestry.provenance.dvc_files import ALWAYS, locked
from tapestry.tracking.experiment import WITHOUT_ROW

if TYPE_CHECKING:
    from mlflow.entities import Run


def check_inputs(evidence: Evidence) -> list[Finding]:
    """That a run on record found the inputs of dvc.lock when it began, and they stayed while it ran."""
    stages = [stage for stage in evidence.lock if stage not in (*ALWAYS, *WITHOUT_ROW)]
    findings = [finding for stage in stages for finding in _stage(evidence, stage)]
    return or_passed(findings, f"{len(stages)} stages found the inputs of dvc.lock when they began")


def _stage(evidence: Evidence, stage: str) -> list[Finding]:
    mend = f"run `dvc repro --single-item --force {stage}`, then `dvc repro`"
    makers = evidence.makers(stage)
    if not makers:
        return [unknown(f"{stage}: no run on record made its outputs", mend)]
    deps = locked(evidence.lock[stage])["deps"]
    if any(_apart(run, deps) == [] and not _changed(run) for run in makers):
        return []
    run = makers[0]
    if _changed(run):
        text = f"{stage}: {', '.join(_changed(run))} changed while it ran ({shown_run(run)})"
        return [failed(text, mend)]
    if inputs_of(run) is None:
        return [unknown(f"{stage}: {shown_run(run)} doesn't say what it read", mend)]
    own = evidence.records.under(evidence.row).get(stage)
    text = f"{stage}: {'; '.join(_apart(run, deps))} ({shown_run(run)})"
    if own is not None and own.info.run_id == run.info.run_id:
        return [failed(text, mend)]
    return [unknown(f"{text}: no run on record made the same from what dvc.lock has", mend)]


def _apart(run: Run, deps: dict[str, str]) -> list[str]:
    """What of its inputs a run found otherwise than dvc.lock has it."""
    found = inputs_of(run)
    if found is None:
        return ["it doesn't say"]
    return [
        f"{path} had the MD5 {found.get(path)} when it began, dvc.lock has {md5}"
        for path, md5 in deps.items()
        if found.get(path) != md5
    ]


def _changed(run: Run) -> list[str]:
    return [str(path) for path in json.loads(run.data.tags.get("inputs_changed", "[]"))]
