"""The claim `rerun`: reproducing the commit from raw files gives the same bytes; if not, the first difference.

The parameters, inputs, packages and processor that differ are listed as possible causes.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tapestry.audit.cache import cache_folder, object_path
from tapestry.audit.claims import Finding, NoEvidenceError, failed, passed
from tapestry.audit.clone import cloned, provide_raw, reproduce
from tapestry.audit.differences import first_difference
from tapestry.audit.evidence import Evidence
from tapestry.audit.records import shown_run
from tapestry.core.cpu import describe_cpu
from tapestry.core.yaml_file import read_yaml
from tapestry.provenance.dvc_files import locked
from tapestry.provenance.git import git
from tapestry.provenance.hashes import dvc_md5
from tapestry.tracking.experiment import MODEL_STAGE
from tapestry.tracking.packages import PACKAGES_FILE, installed_packages, read_packages

TITLE = "a rerun from raw files gives the same bytes"

Locate = Callable[[str], tuple[str, Mapping[str, Path] | None]]
"""Returns the expected MD5 of an output, and its files by name, or None if they no longer exist."""


def check_rerun(evidence: Evidence) -> list[Finding]:
    """Check that the current commit, reproduced in a clone, gives the files of the checkout."""
    try:
        commit = git(evidence.root, "rev-parse", "HEAD").strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoEvidenceError("git has no commit to rerun", "commit first") from error
    with cloned(evidence.root, commit) as checkout:
        provide_raw(evidence.root, checkout)
        return _rerun(evidence, checkout, lambda path: here(evidence, path))


def check_run_again(evidence: Evidence, root: Path) -> list[Finding]:
    """Check that a clone (the root of `evidence`) gives the outputs in the dvc.lock of an old run.

    Args:
        root: the user's checkout, whose cache may still have that run's files.
    """
    wanted = _locked(evidence)
    cache = cache_folder(root)
    return _rerun(evidence, evidence.root, lambda path: (wanted[path], _cached(cache, path, wanted[path])))


def _rerun(evidence: Evidence, checkout: Path, locate: Locate) -> list[Finding]:
    """Reproduce a clone and compare all outputs."""
    makers = evidence.makers(MODEL_STAGE) if evidence.has_model_run() else []
    arithmetic = makers[0].data.tags.get("cpu_arithmetic", "") if makers else ""
    wrong = reproduce(checkout, arithmetic, len(evidence.lock))
    if wrong is not None:
        return [failed(f"it stopped: {wrong}", "fix what the message says, then run it again")]
    return compare(evidence, checkout, locate)


def compare(evidence: Evidence, checkout: Path, locate: Locate) -> list[Finding]:
    """Compare the outputs of a reproduced clone with the expected ones."""
    commit = git(checkout, "rev-parse", "HEAD").strip()
    findings: list[Finding] = []
    differing: list[str] = []
    outputs = 0
    for stage in evidence.declared:
        for out in evidence.lock.get(stage, {}).get("outs", []):
            outputs += 1
            path = out["path"]
            wanted, files = locate(path)
            if not (checkout / path).exists() or dvc_md5(checkout / path) != wanted:
                if not differing:
                    findings = [_first(stage, path, files, checkout), *_causes(evidence, stage, checkout)]
                differing.append(stage)
    later = sorted(set(differing[1:]) - {differing[0]}, key=differing.index) if differing else []
    if later:
        findings.append(failed(f"after it differ: {', '.join(later)}", "fix the first one"))
    return findings or [passed(f"{outputs} outputs of {len(evidence.lock)} stages, reproduced from commit {commit}")]


def _first(stage: str, path: str, files: Mapping[str, Path] | None, checkout: Path) -> Finding:
    detail = f"{path}: its former content is no longer available"
    if files is not None:
        detail = first_difference(files, _files(checkout / path, path), "here", "in the rerun") or path
    text = f"{stage} is the first stage that differs: {detail}"
    return failed(text, f"run `dvc repro --force {stage}`, and fix the causes named here")


def _causes(evidence: Evidence, stage: str, checkout: Path) -> list[Finding]:
    """Find possible causes of a difference: a parameter, an input, a package or the processor that changed."""
    then, now = (locked(lock.get(stage, {})) for lock in (evidence.lock, read_yaml(checkout / "dvc.lock")["stages"]))
    causes = [
        _first_change("the parameter", then["params"], now["params"]),
        _first_change("the input", then["deps"], now["deps"]),
    ]
    makers = evidence.makers(stage) if evidence.has_model_run() else []
    if makers:
        run = makers[0]
        content = evidence.records.artifact(run, PACKAGES_FILE)
        if content is not None:
            recorded = read_packages(content.decode())
            here = installed_packages()
            causes.append(_first_change("the package", recorded, {name: here.get(name) for name in recorded}))
        if "cpu_arithmetic" in run.data.tags:
            cpu = describe_cpu()
            causes.append(_first_change("the tag", {key: run.data.tags.get(key) for key in cpu}, cpu))
        causes[2:] = [f"{cause} ({shown_run(run)})" if cause else None for cause in causes[2:]]
    fix = "restore the former one, or accept the difference"
    return [failed(f"the rerun of {stage} had {cause}", fix) for cause in causes if cause]


def _first_change(what: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    for key in then:
        if then[key] != now.get(key):
            return f"{what} {key} {now.get(key, 'absent')} in place of {then[key]}"
    return None


def _locked(evidence: Evidence) -> dict[str, str]:
    return {path: md5 for entry in evidence.lock.values() for path, md5 in locked(entry)["md5"].items()}


def here(evidence: Evidence, path: str) -> tuple[str, Mapping[str, Path] | None]:
    """Locate an output in the checkout; if it is missing there, in dvc.lock and DVC's cache."""
    md5 = evidence.md5(path)
    if md5 is None:
        wanted = _locked(evidence)[path]
        return wanted, _cached(cache_folder(evidence.root), path, wanted)
    return md5, _files(evidence.root / path, path)


def _cached(cache: Path, path: str, md5: str) -> Mapping[str, Path] | None:
    """Return the files of an output in DVC's cache; None if one is missing."""
    found = object_path(cache, md5)
    if not found.is_file():
        return None
    if not md5.endswith(".dir"):
        return {path: found}
    listed = json.loads(found.read_text(encoding="utf-8"))
    files = {f"{path}/{item['relpath']}": object_path(cache, item["md5"]) for item in listed}
    return files if all(file.is_file() for file in files.values()) else None


def _files(path: Path, name: str) -> Mapping[str, Path]:
    if path.is_file():
        return {name: path}
    return {f"{name}/{file.relative_to(path).as_posix()}": file for file in path.rglob("*") if file.is_file()}
