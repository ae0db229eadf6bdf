"""Figures: the files of metrics/, what they are made of, and what MLflow holds."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tapestry.audit.claims import Finding, NoEvidenceError, failed, or_passed
from tapestry.audit.differences import differing
from tapestry.audit.evidence import Evidence
from tapestry.audit.records import shown_run
from tapestry.figures.summary import read_results, write_figures
from tapestry.tracking.record import FIGURES, row_curve, row_figures

_UNDO = "restore the file with git, or run `dvc repro --force figures`"
_ALTERED = "a figure was altered: `dvc repro --force` makes a new row; keep a copy of mlflow.db to find out how"


def check_figures(evidence: Evidence) -> list[Finding]:
    """That the figures follow from the ranks, and are those of the model's row."""
    findings = _recomputed(evidence)
    if evidence.found_row is None:
        text = f"MLflow has no row of this model (hash {evidence.content_hash('models')}) nor of this dvc.lock"
        return [*findings, failed(text, "run `dvc repro`")]
    return [*findings, *_artifacts(evidence), *_row(evidence)]


def _recomputed(evidence: Evidence) -> list[Finding]:
    """Each file anew from ranks, baselines, training.json and statistics.json, with the cut-offs of dvc.lock."""
    root, metrics = evidence.root, evidence.root / "metrics"
    params = evidence.lock.get("figures", {}).get("params", {}).get("params.yaml", {})
    if "evaluate.ks" not in params:
        raise NoEvidenceError("dvc.lock has no cut-offs of the stage figures", "run `dvc repro figures`")
    results = read_results(
        root / "data/statistics.json", root / "models", metrics / "ranks.parquet", root / "data/baselines"
    )
    with tempfile.TemporaryDirectory() as folder:
        write_figures(results, params["evaluate.ks"], Path(folder))
        findings = [
            failed(f"metrics/{name}: {differing(name, made, metrics / name, 'recomputed', 'in the file')}", _UNDO)
            for name in FIGURES
            if (made := Path(folder, name)).read_bytes() != _bytes(metrics / name)
        ]
    return or_passed(findings, f"{len(FIGURES)} files of metrics/ follow from ranks, training and statistics")


def _artifacts(evidence: Evidence) -> list[Finding]:
    findings = []
    for name in FIGURES:
        kept = evidence.records.artifact(evidence.row, f"metrics/{name}")
        here = evidence.root / "metrics" / name
        if kept is not None and kept != _bytes(here):  # that it is there is another claim's
            with tempfile.TemporaryDirectory() as folder:
                (other := Path(folder, name)).write_bytes(kept)
                apart = differing(name, here, other, "in the file", "in MLflow")
            findings.append(failed(f"metrics/{name}: {apart} ({shown_run(evidence.row)})", _UNDO))
    return findings


def _row(evidence: Evidence) -> list[Finding]:
    row, records = evidence.row, evidence.records
    model_hash = row.data.tags.get("model_hash")
    findings = []
    if model_hash != evidence.content_hash("models"):
        text = f"models/ has the hash {evidence.content_hash('models')}, the row {shown_run(row)} has {model_hash}"
        findings.append(failed(text, "run `dvc checkout models`, or `dvc repro`"))
    expected = {name: [(0, value)] for name, value in row_figures(evidence.root / "metrics").items()}
    for epoch, name, value in row_curve(evidence.root / "metrics"):
        expected.setdefault(name, []).append((epoch, value))
    for name, points in expected.items():
        found = sorted(records.history(row, name))
        if found != sorted(points):
            pair = next((p for p in zip(found, sorted(points), strict=False) if p[0] != p[1]), None)
            told = f"step {pair[0][0]} is {pair[0][1]}, metrics/ has {pair[1][1]}" if pair else f"{len(found)} values"
            findings.append(failed(f"{name} in MLflow: {told} ({shown_run(row)})", _ALTERED))
        elif row.data.metrics.get(name) != max(points)[1]:  # a copy of the last value, which the UI shows
            text = f"{name} in MLflow's lists is {row.data.metrics.get(name)}, metrics/ has {max(points)[1]}"
            findings.append(failed(f"{text} ({shown_run(row)})", _ALTERED))
    return or_passed(findings, f"{len(expected)} figures and curves are those of {shown_run(row)}")


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
