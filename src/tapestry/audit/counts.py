"""The claim `rows`: rows in = kept + quarantined + filtered at each stage, in the counts and in the files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from tapestry.audit.claims import Finding, failed, or_passed
from tapestry.audit.evidence import Evidence
from tapestry.core.splits import TEST

Sum = tuple[str, int, int]
"""A description, and two counts that must be equal."""

_OUTCOMES = "rows_kept", "rows_quarantined", "rows_filtered"


def check_counts(evidence: Evidence) -> list[Finding]:
    """Check that all counts of rows add up."""
    root = evidence.root
    statistics = _json(root / "metrics/data.json")
    sums = [*_sequences(root, statistics), *_ranks(root, evidence.parameters.evaluate.baselines)]
    for domain in evidence.parameters.source.domains:
        sums += _domain(root, domain, statistics["domain"][domain])
    findings = [
        failed(f"{what}: {found} and {expected} should be equal", "run `dvc repro --force`")
        for what, found, expected in sums
        if found != expected
    ]
    whole = statistics["all"]
    parts = ", ".join(f"{whole[key]} {key.removeprefix('rows_')}" for key in _OUTCOMES)
    return or_passed(findings, f"{whole['rows_in']} rows in: {parts}; {len(sums)} sums")


def _domain(root: Path, domain: str, row: dict[str, Any]) -> Iterator[Sum]:
    counts = _json(root / f"data/counts/{domain}.json")
    name = f"data/counts/{domain}.json"
    parts = counts["rows_quarantined"] + counts["rows_duplicate"] + counts["interactions"]
    yield f"{name}: rows in, and quarantined + duplicate + interactions", counts["rows_in"], parts
    yield f"{name}: rows quarantined, and by reason", counts["rows_quarantined"], sum(counts["reasons"].values())
    for key, kept in (("interactions", "interactions"), ("rows_quarantined", "quarantine")):
        path = f"data/{kept}/{domain}.parquet"
        yield f"{name}: {key}, and rows of {path}", counts[key], pq.read_metadata(root / path).num_rows
    reasons = Counter(pq.read_table(root / f"data/quarantine/{domain}.parquet")["reason"].to_pylist())
    for reason in sorted({*reasons, *counts["reasons"]}):
        recorded = counts["reasons"].get(reason, 0)
        yield f"{name}: {reason}, and rows of data/quarantine/{domain}.parquet", recorded, reasons[reason]
    name = f"metrics/data.json: {domain}"
    yield f"{name}: rows in, and those of data/counts", row["rows_in"], counts["rows_in"]
    yield f"{name}: rows in, and kept + quarantined + filtered", row["rows_in"], sum(row[key] for key in _OUTCOMES)
    yield f"{name}: rows quarantined, and those of data/counts", row["rows_quarantined"], counts["rows_quarantined"]
    yield f"{name}: rows filtered, and by reason", row["rows_filtered"], sum(row["filtered"].values())


def _sequences(root: Path, statistics: dict[str, Any]) -> Iterator[Sum]:
    for key in ("rows_in", *_OUTCOMES):
        of_domains = sum(row[key] for row in statistics["domain"].values())
        yield f"metrics/data.json: {key} of all domains, and their sum", statistics["all"][key], of_domains
    table = pq.read_table(root / "data/sequences/sequences.parquet", columns=["domain"])
    kept = Counter(table["domain"].to_pylist())
    for number, domain in enumerate(_json(root / "data/sequences/domains.json")):
        recorded = statistics["domain"][domain["name"]]["rows_kept"]
        yield f"metrics/data.json: rows kept of {domain['name']}, and in data/sequences", recorded, kept[number]


def _ranks(root: Path, baselines: Sequence[str]) -> Iterator[Sum]:
    table = pq.read_table(root / "data/sequences/sequences.parquet", columns=["position", "split"])
    targets = pc.sum(pc.and_(pc.equal(table["split"], TEST), pc.greater(table["position"], 0))).as_py() or 0
    test = _json(root / "metrics/test.json")
    yield "metrics/test.json: targets, and those of data/sequences", test["all"]["n"], targets
    for name in ("metrics/ranks.parquet", *(f"data/baselines/{name}.parquet" for name in sorted(baselines))):
        yield f"{name}: rows, and targets of data/sequences", pq.read_metadata(root / name).num_rows, targets


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
