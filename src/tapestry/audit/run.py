"""The command `tapestry audit`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tapestry.atomic import atomic_file
from tapestry.audit.audit import audit, worst
from tapestry.audit.certificate import as_json, as_markdown, as_text, keep
from tapestry.audit.claims import Claim, NoEvidenceError, Status
from tapestry.audit.evidence import Evidence
from tapestry.audit.records import Records
from tapestry.checkout import require_root
from tapestry.errors import for_terminal
from tapestry.tracking.delivery import explained

if TYPE_CHECKING:
    from mlflow.entities import Run


def run_audit(json_wanted: bool, certificate: Path | None) -> int:
    """Audit the checkout that this process is in, and print what was found.

    Returns:
        The exit code: 1 if a claim fails.

    Raises:
        TapestryError: no checkout's root, or without a readable dvc.yaml, dvc.lock or params.yaml.
    """
    require_root()
    evidence = Evidence(Path.cwd())
    claims = audit(evidence)
    records, row = None, None
    with suppress(NoEvidenceError):
        records, row = evidence.records, evidence.found_row
    _tell(claims, row, json_wanted)
    _keep(as_markdown(claims, row), certificate, records, row)
    return int(worst(claims) is Status.FAIL)


def _tell(claims: Sequence[Claim], row: Run | None, json_wanted: bool) -> None:
    print(json.dumps(as_json(claims, row), indent=2) if json_wanted else as_text(claims))


def _keep(markdown: str, path: Path | None, records: Records | None, row: Run | None) -> None:
    if path is not None:
        with atomic_file(path) as temporary:
            temporary.write_text(markdown, encoding="utf-8")
    if records is not None and row is not None:
        try:
            keep(records, row, markdown)
        except Exception as error:  # any of MLflow's: the audit itself is done
            print(f"audit: MLflow doesn't keep the certificate: {for_terminal(explained(error))}", file=sys.stderr)
