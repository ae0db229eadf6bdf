"""The command `tapestry audit`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tapestry.audit.audit import audit_checkout, audit_run, worst
from tapestry.audit.certificate import as_json, as_markdown, as_text, keep
from tapestry.audit.claims import Claim, NoEvidenceError, Status
from tapestry.audit.clone import cloned, provide_raw
from tapestry.audit.evidence import Evidence
from tapestry.audit.records import Records, open_records, shown_run
from tapestry.core.atomic import atomic_file
from tapestry.core.checkout import enter_checkout
from tapestry.core.errors import TapestryError, for_terminal, shown
from tapestry.provenance.git import git
from tapestry.tracking.delivery import explained
from tapestry.tracking.experiment import MODEL_STAGE, PARENT

if TYPE_CHECKING:
    from mlflow.entities import Run


def run_audit(run_id: str | None, again: bool, json_wanted: bool, certificate: Path | None) -> int:
    """Audit the checkout that this process is in, or an old run, and print what was found.

    Args:
        again: rerun the checkout's commit, too; an old run always is.

    Returns:
        The exit code: 1 if a claim fails.

    Raises:
        TapestryError: in no checkout, or one without a readable dvc.yaml, dvc.lock or params.yaml; or no such run.
    """
    certificate = certificate and certificate.absolute()
    root = enter_checkout()
    if run_id is None:
        evidence = Evidence(root)
        claims = audit_checkout(evidence, again)
        _tell(claims, evidence, json_wanted, certificate)
    else:
        with _old_run(root, run_id) as evidence:
            claims = audit_run(evidence, root)
            _tell(claims, evidence, json_wanted, certificate)
    return int(worst(claims) is Status.FAIL)


def _tell(claims: Sequence[Claim], evidence: Evidence, json_wanted: bool, certificate: Path | None) -> None:
    records, row = None, None
    with suppress(NoEvidenceError):
        records, row = evidence.records, evidence.found_row
    print(json.dumps(as_json(claims, row), indent=2) if json_wanted else as_text(claims))
    markdown = as_markdown(claims, row)
    if certificate is not None:
        with atomic_file(certificate) as temporary:
            temporary.write_text(markdown, encoding="utf-8")
    if records is not None and row is not None:
        try:
            keep(records, row, markdown)
        except Exception as error:  # any of MLflow's: the audit itself is done
            print(f"audit: MLflow doesn't keep the certificate: {for_terminal(explained(error))}", file=sys.stderr)


@contextmanager
def _old_run(root: Path, run_id: str) -> Iterator[Evidence]:
    """Yield what an old run is checked on: a clone with its code and parameters, to be reproduced, and its dvc.lock."""
    try:
        records = open_records()
    except NoEvidenceError as error:
        raise TapestryError(f"--run: {error}") from error
    row = _model_row(records, run_id)
    kept = {name: records.artifact(row, name) for name in ("dvc.lock", "params.yaml")}
    for name, content in kept.items():
        if content is None:
            raise TapestryError(
                f"--run: {shown_run(row)} has no artifact {name}: if the checkout was moved, run `tapestry relocate`; "
                "a run that stopped before the stage record has none, and can't be audited"
            )
    with cloned(root, _commit(root, row)) as checkout:
        lock = checkout.parent / "dvc.lock"
        lock.write_bytes(kept["dvc.lock"] or b"")
        (checkout / "params.yaml").write_bytes(kept["params.yaml"] or b"")
        provide_raw(root, checkout)
        yield Evidence(checkout, lock, row)


def _model_row(records: Records, run_id: str) -> Run:
    """The run of this id, or the one of the model that it is under."""
    by_id = {run.info.run_id: run for run in records.runs}
    run = by_id.get(run_id)
    if run is not None and run.data.tags.get("stage") != MODEL_STAGE:
        run = by_id.get(run.data.tags.get(PARENT, ""))
    if run is None:
        known = ", ".join(shown_run(row) for row in records.models[-3:]) or "none"
        raise TapestryError(f"--run: MLflow has no run {shown(run_id)} of a model; the newest are {known}")
    return run


def _commit(root: Path, row: Run) -> str:
    """The commit of a run's code: its own, or the one that DVC made of its experiment, where code was changed in it."""
    commit = row.data.tags.get("git_commit", "unknown").removesuffix("-dirty")
    name = row.data.tags.get("dvc_exp")
    if name and row.data.tags["git_commit"].endswith("-dirty"):
        with suppress(OSError, subprocess.CalledProcessError):
            found = git(root, "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").splitlines()
            own = [line.split()[0] for line in found if line.endswith(f"/{name}")]
            return own[0] if own else commit
    return commit
