"""The claim `lock`: dvc.lock matches stages, parameters and files, which are hashed without DVC's cache of hashes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tapestry.audit.claims import Finding, NoEvidenceError, failed, or_passed
from tapestry.audit.evidence import Evidence
from tapestry.core.errors import shown
from tapestry.core.settings import flatten

_ABSENT = object()
_SHOWN = 3  # stages in a message
_ELSEWHERE = ("source.path",)  # the location of the raw files doesn't affect a result


def check_lock(evidence: Evidence) -> list[Finding]:
    """Check that dvc.lock matches dvc.yaml, params.yaml and the files."""
    findings = [*_stages(evidence), *_files(evidence), *_parameters(evidence), *_other_parameters(evidence)]
    paths = {item["path"] for entry in evidence.lock.values() for item in _items(entry)}
    return or_passed(findings, f"{len(evidence.lock)} stages, {len(paths)} files and folders, and all parameters")


def _stages(evidence: Evidence) -> list[Finding]:
    """Check that dvc.lock has the stages of dvc.yaml, with their commands, inputs and outputs."""
    mend = "run `dvc repro`, or restore both files with git"
    findings = []
    for name in sorted(set(evidence.declared) - set(evidence.lock)):
        findings.append(failed(f"the stage {name} isn't in dvc.lock", mend))
    for name, spec in evidence.declared.items():
        entry = evidence.lock.get(name)
        if entry is None:
            continue
        declared = {
            "cmd": [spec["cmd"]],
            "deps": sorted(spec.get("deps", [])),
            "outs": sorted(next(iter(o)) if isinstance(o, Mapping) else o for o in _outputs(spec)),
        }
        in_lock = {
            "cmd": [entry.get("cmd")],
            "deps": sorted(dep["path"] for dep in entry.get("deps", [])),
            "outs": sorted(out["path"] for out in entry.get("outs", [])),
        }
        for part, expected in declared.items():
            apart = sorted({str(one) for one in expected} ^ {str(one) for one in in_lock[part]})
            if apart:
                findings.append(failed(f"{name}: {part} of dvc.lock and dvc.yaml differ by {', '.join(apart)}", mend))
    return findings


def _files(evidence: Evidence) -> list[Finding]:
    by_path: dict[str, dict[str, list[str]]] = {}
    for stage, entry in evidence.lock.items():
        for item in _items(entry):
            by_path.setdefault(item["path"], {}).setdefault(str(item["md5"]), []).append(stage)
    findings = []
    for path, wanted in by_path.items():
        found = evidence.md5(path)
        for md5, stages in wanted.items():
            if found is None:
                findings.append(failed(f"{path} ({stages[0]}) is not there", "run `dvc checkout`, or `dvc repro`"))
            elif found != md5:
                text = f"{path}: its MD5 is {found}, dvc.lock has {md5} ({_listed(stages)})"
                findings.append(failed(text, "undo it with `git restore` or `dvc checkout`, or run `dvc repro`"))
    return findings


def _parameters(evidence: Evidence) -> list[Finding]:
    findings = []
    for stage, entry in evidence.lock.items():
        for name, in_lock in entry.get("params", {}).get("params.yaml", {}).items():
            here: Any = evidence.values
            for key in name.split("."):
                here = here.get(key, _ABSENT) if isinstance(here, Mapping) else _ABSENT
            for key, (now, then) in _differing(name, here, in_lock).items():
                text = f"{key} is {_value(now)} in params.yaml, {_value(then)} in dvc.lock ({stage})"
                findings.append(failed(text, "run `dvc repro`, or set it back"))
    return findings


def _other_parameters(evidence: Evidence) -> list[Finding]:
    """Check the parameters that aren't in dvc.lock, since data/source stands for them, against the model's run."""
    try:
        recorded = evidence.model_run.data.params
    except NoEvidenceError:
        return []
    sections = ("source", "synthetic") if evidence.parameters.source.release == "synthetic" else ("source",)
    findings = []
    for key, value in flatten(evidence.parameters).items():
        apart = key in recorded and recorded[key] != str(value)
        if apart and key.partition(".")[0] in sections and key not in _ELSEWHERE:
            text = f"{key} is {value} in params.yaml, {recorded[key]} in the model's run"
            findings.append(failed(text, "run `dvc repro`, or set it back"))
    return findings


def _differing(name: str, here: Any, in_lock: Any) -> dict[str, tuple[Any, Any]]:
    if isinstance(here, Mapping) and isinstance(in_lock, Mapping):
        apart: dict[str, tuple[Any, Any]] = {}
        for key in [*here, *(key for key in in_lock if key not in here)]:
            apart |= _differing(f"{name}.{key}", here.get(key, _ABSENT), in_lock.get(key, _ABSENT))
        return apart
    return {} if here == in_lock else {name: (here, in_lock)}


def _listed(stages: list[str]) -> str:
    more = f" and {len(stages) - _SHOWN} more" if len(stages) > _SHOWN else ""
    return ", ".join(stages[:_SHOWN]) + more


def _value(value: Any) -> str:
    return "absent" if value is _ABSENT else shown(value)


def _items(entry: Mapping[str, Any]) -> list[Any]:
    return [*entry.get("deps", []), *entry.get("outs", [])]


def _outputs(spec: Mapping[str, Any]) -> list[Any]:
    return [*spec.get("outs", []), *spec.get("metrics", []), *spec.get("plots", [])]
