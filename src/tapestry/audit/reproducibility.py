"""The claim `settings`: seeds, threads, processor level and device are recorded with the runs of train and evaluate."""

from __future__ import annotations

from tapestry.audit.claims import Finding, failed, or_passed, unknown
from tapestry.audit.evidence import Evidence
from tapestry.audit.records import shown_run
from tapestry.core.settings import flatten
from tapestry.tracking.experiment import MODEL_STAGE

_PARAMS = (
    "train.seed",
    "sessionize.seed",
    "train.threads",
    "train.processes",
    "evaluate.threads",
    "ingest.threads",
    "sessionize.threads",
    "train.device",
    "evaluate.device",
    "train.precision",
)
_TAGS = ("cpu", "cpu_arithmetic", "device")


def check_settings(evidence: Evidence) -> list[Finding]:
    """Check that the settings that affect the last bits of a result are recorded."""
    run, here = evidence.model_run, flatten(evidence.parameters)
    names = _PARAMS + (("synthetic.seed",) if evidence.parameters.source.release == "synthetic" else ())
    findings = []
    for name in names:
        if name not in run.data.params:
            findings.append(failed(f"{shown_run(run)} has no {name}", "run `dvc repro --force`"))
        elif run.data.params[name] != str(here[name]):
            text = f"{name} is {run.data.params[name]} in {shown_run(run)}, {here[name]} in params.yaml"
            findings.append(failed(text, "run `dvc repro`, or set it back"))
    values = ", ".join(f"{name} {run.data.params.get(name)}" for name in names)
    findings = or_passed(findings, values)
    for stage in (MODEL_STAGE, "evaluate"):
        findings += _tags(evidence, stage)
    return findings


def _tags(evidence: Evidence, stage: str) -> list[Finding]:
    makers = evidence.makers(stage)
    if not makers:
        return [unknown(f"{stage}: no recorded run produced it", f"run `dvc repro --force {stage}`")]
    run = makers[0]
    missing = [name for name in _TAGS if not run.data.tags.get(name)]
    mend = f"run `dvc repro --force {stage}`"
    findings = [failed(f"{shown_run(run)} has no tag {name}", mend) for name in missing]
    return or_passed(findings, f"{stage}: " + "; ".join(f"{name} {run.data.tags.get(name)}" for name in _TAGS))
