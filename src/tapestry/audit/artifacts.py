"""The claim `artifacts`: the files of MLflow's runs can be opened in this checkout."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from tapestry.audit.claims import Finding, failed, or_passed
from tapestry.audit.evidence import Evidence
from tapestry.audit.records import shown_run
from tapestry.tracking.record import ARTIFACTS
from tapestry.tracking.store import store_file


def check_artifacts(evidence: Evidence) -> list[Finding]:
    """Check that MLflow's artifact locations are in this checkout, and that the model's run has all its artifacts."""
    run, store = evidence.model_run, store_file()
    findings = []
    if store is not None:
        foreign = [run.info.artifact_uri for run in evidence.records.runs if _is_foreign(run.info.artifact_uri, store)]
        if foreign:
            text = f"{len(foreign)} runs have their files in {_folder(foreign[0])}: the checkout was moved or copied"
            findings.append(failed(text, "run `tapestry relocate`, and copy those files here if they are missing"))
    missing = [name for name in ARTIFACTS if evidence.records.artifact(run, name) is None]
    if missing:
        mend = "run `tapestry relocate`" if findings else "run `dvc repro --force record`"
        findings.append(failed(f"{shown_run(run)}: no artifact {', '.join(missing)}", mend))
    return or_passed(findings, f"{len(ARTIFACTS)} artifacts of {shown_run(run)} can be opened")


def _is_foreign(uri: str, store: Path) -> bool:
    """Return whether a run's files are in the `mlartifacts/` of another checkout, or are missing."""
    path = _path(uri)
    if path is None or path.is_relative_to(store.parent):
        return False
    return "mlartifacts" in path.parts or not path.parent.parent.exists()


def _path(uri: str) -> Path | None:
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") else None


def _folder(uri: str) -> str:
    return str((_path(uri) or Path(uri)).parent.parent)
