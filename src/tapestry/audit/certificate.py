"""Format an audit for a terminal, as JSON, and as the Markdown certificate that MLflow keeps."""

from __future__ import annotations

import datetime
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapestry.audit.claims import Claim, Finding, Status
from tapestry.audit.records import Records, shown_run
from tapestry.core.errors import for_terminal

if TYPE_CHECKING:
    from mlflow.entities import Run

CERTIFICATE = "audit.md"  # the certificate's name among the artifacts of the model's run
_WIDTH = 9  # characters of the longest claim name


def as_text(claims: Sequence[Claim]) -> str:
    """Format one line a claim; below it the findings, each with its fix."""
    lines = []
    for claim in claims:
        lines.append(f"{claim.status.name:8} {claim.name:{_WIDTH}} {claim.title}")
        for finding in claim.findings:
            lines += [for_terminal(f"{'':8} {_marked(claim, finding)}{finding.text}")]
            lines += [for_terminal(f"{'':8}   mend: {finding.mend}")] if finding.mend else []
    return "\n".join([*lines, tally(claims)])


def as_json(claims: Sequence[Claim], run: Run | None) -> dict[str, Any]:
    """Format the claims and findings as JSON values."""
    return {
        "status": max(claim.status for claim in claims).name,
        "run_id": run.info.run_id if run is not None else None,
        "claims": [
            {
                "name": claim.name,
                "title": claim.title,
                "status": claim.status.name,
                "findings": [
                    {"status": finding.status.name, "text": finding.text, "mend": finding.mend}
                    for finding in claim.findings
                ],
            }
            for claim in claims
        ],
    }


def as_markdown(claims: Sequence[Claim], run: Run | None) -> str:
    """Format the certificate. Audits with equal findings differ only in its date."""
    tags = run.data.tags if run is not None else {}
    about = {
        "Model": tags.get("model_hash", "unknown"),
        "Data": tags.get("data_hash", "unknown"),
        "Code": f"{tags.get('code_hash', 'unknown')}, at commit {tags.get('git_commit', 'unknown')}",
        "Run": shown_run(run) if run is not None else "none",
        "Date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    lines = ["# Audit", "", tally(claims), "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in about.items()]
    for claim in claims:
        lines += ["", f"## {claim.status.name}: {claim.title} ({claim.name})", ""]
        for finding in claim.findings:
            lines.append(f"- {_marked(claim, finding)}{_plain(finding.text)}")
            lines += [f"  - mend: {_plain(finding.mend)}"] if finding.mend else []
    return "\n".join(lines) + "\n"


def keep(records: Records, run: Run, certificate: str) -> None:
    """Log the certificate as an artifact of the model's run; it replaces that of an earlier audit.

    Raises:
        Exception: any of MLflow's, if it doesn't accept the artifact.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, CERTIFICATE)
        path.write_text(certificate, encoding="utf-8")
        records.client.log_artifact(run.info.run_id, str(path))


def tally(claims: Sequence[Claim]) -> str:
    """Count the claims by status: `10 PASS, 1 UNKNOWN, 0 FAIL`."""
    counts = Counter(claim.status for claim in claims)
    return ", ".join(f"{counts[status]} {status.name}" for status in Status)


def _marked(claim: Claim, finding: Finding) -> str:
    """Return the prefix with a finding's status; empty if all findings of the claim have the same status."""
    alike = len({other.status for other in claim.findings}) == 1
    return "" if alike else f"{finding.status.name}: "


def _plain(text: str) -> str:
    return for_terminal(text).replace("\n", " ").replace("<", "&lt;")


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")
