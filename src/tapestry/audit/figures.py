"""The claim `figures`: the files of metrics/ follow from the ranks, and are the metrics that MLflow has."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tapestry.audit.claims import Finding, NoEvidenceError, failed, or_passed
from tapestry.audit.differences import differing
from tapestry.audit.evidence import Evidence
from tapestry.audit.records import shown_run
from tapestry.figures.summary import read_results, write_figures
from tapestry.tracking.record import FIGURES, run_curve, run_metrics

_UNDO = "restore the file with git, or run `dvc repro --force figures`"
_ALTERED = "a metric was altered: `dvc repro --force` creates a new run; keep a copy of mlflow.db to find out how"


def check_figures(evidence: Evidence) -> list[Finding]:
    """Check that metrics/ follows from the ranks, and that the model's run has the same metrics."""
    findings = _recomputed(evidence)
    if evidence.found_model_run is None:
        text = f"MLflow has no run of this model (hash {evidence.content_hash('models')}) nor of this dvc.lock"
        return [*findings, failed(text, "run `dvc repro`")]
    return [*findings, *_compare_artifacts(evidence), *_compare_run(evidence)]


def _recomputed(evidence: Evidence) -> list[Finding]:
    """Recompute each file from ranks, baselines, training.json and statistics.json, with the parameters in dvc.lock."""
    root, metrics = evidence.root, evidence.root / "metrics"
    params = evidence.lock.get("figures", {}).get("params", {}).get("params.yaml", {})
    if not {"evaluate.ks", "evaluate.baselines"} <= set(params):
        raise NoEvidenceError("dvc.lock has no parameters of the stage figures", "run `dvc repro figures`")
    data, ranks = root / "data", metrics / "ranks.parquet"
    names = params["evaluate.baselines"]
    results = read_results(data / "statistics.json", root / "models", ranks, data / "baselines", names)
    with tempfile.TemporaryDirectory() as folder:
        write_figures(results, params["evaluate.ks"], params.get("evaluate.sampled_negatives"), Path(folder))
        findings = [
            failed(f"metrics/{name}: {differing(name, made, metrics / name, 'recomputed', 'in the file')}", _UNDO)
            for name in FIGURES
            if (made := Path(folder, name)).read_bytes() != _bytes(metrics / name)
        ]
    return or_passed(findings, f"{len(FIGURES)} files of metrics/ follow from ranks, training and statistics")


def _compare_artifacts(evidence: Evidence) -> list[Finding]:
    findings = []
    for name in FIGURES:
        kept = evidence.records.artifact(evidence.model_run, f"metrics/{name}")
        here = evidence.root / "metrics" / name
        if kept is not None and kept != _bytes(here):  # a missing artifact is reported by the claim `artifacts`
            with tempfile.TemporaryDirectory() as folder:
                (other := Path(folder, name)).write_bytes(kept)
                difference = differing(name, here, other, "in the file", "in MLflow")
            findings.append(failed(f"metrics/{name}: {difference} ({shown_run(evidence.model_run)})", _UNDO))
    return findings


def _compare_run(evidence: Evidence) -> list[Finding]:
    run, records = evidence.model_run, evidence.records
    model_hash = run.data.tags.get("model_hash")
    findings = []
    if model_hash != evidence.content_hash("models"):
        text = f"models/ has the hash {evidence.content_hash('models')}, the run {shown_run(run)} has {model_hash}"
        findings.append(failed(text, "run `dvc checkout models`, or `dvc repro`"))
    expected = {name: [(0, value)] for name, value in run_metrics(evidence.root / "metrics").items()}
    for epoch, name, value in run_curve(evidence.root / "metrics"):
        expected.setdefault(name, []).append((epoch, value))
    for name, points in expected.items():
        found = sorted(records.history(run, name))
        if found != sorted(points):
            pair = next((p for p in zip(found, sorted(points), strict=False) if p[0] != p[1]), None)
            detail = f"step {pair[0][0]} is {pair[0][1]}, metrics/ has {pair[1][1]}" if pair else f"{len(found)} values"
            findings.append(failed(f"{name} in MLflow: {detail} ({shown_run(run)})", _ALTERED))
        elif run.data.metrics.get(name) != max(points)[1]:  # MLflow's lists show a separate copy of the last value
            text = f"{name} in MLflow's lists is {run.data.metrics.get(name)}, metrics/ has {max(points)[1]}"
            findings.append(failed(f"{text} ({shown_run(run)})", _ALTERED))
    return or_passed(findings, f"{len(expected)} figures and curves are those of {shown_run(run)}")


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
