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
from tapestry.tracking.delivery import describe_store_error
from tapestry.tracking.experiment import MODEL_STAGE, PARENT

if TYPE_CHECKING:
    from mlflow.entities import Run


def run_audit(run_id: str | None, again: bool, json_wanted: bool, certificate: Path | None) -> int:
    """Audit the current checkout, or an old run, and print the findings.

    Args:
        again: also reproduce the checkout's commit; an old run is always reproduced.

    Returns:
        The exit code: 1 if a claim fails.

    Raises:
        TapestryError: no checkout, dvc.yaml, dvc.lock or params.yaml is missing or damaged, or no such run.
    """
    certificate = certificate and certificate.absolute()
    root = enter_checkout()
    if run_id is None:
        evidence = Evidence(root)
        claims = audit_checkout(evidence, again)
        _publish(claims, evidence, json_wanted, certificate)
    else:
        with _old_run(root, run_id) as evidence:
            claims = audit_run(evidence, root)
            _publish(claims, evidence, json_wanted, certificate)
    return int(worst(claims) is Status.FAIL)


def _publish(claims: Sequence[Claim], evidence: Evidence, json_wanted: bool, certificate: Path | None) -> None:
    records, run = None, None
    with suppress(NoEvidenceError):
        records, run = evidence.records, evidence.found_model_run
    print(json.dumps(as_json(claims, run), indent=2) if json_wanted else as_text(claims))
    markdown = as_markdown(claims, run)
    if certificate is not None:
        with atomic_file(certificate) as temporary:
            temporary.write_text(markdown, encoding="utf-8")
    if records is not None and run is not None:
        try:
            keep(records, run, markdown)
        except Exception as error:  # the audit itself is complete, whatever MLflow raises
            text = for_terminal(describe_store_error(error))
            print(f"audit: the certificate can't be logged to MLflow: {text}", file=sys.stderr)


@contextmanager
def _old_run(root: Path, run_id: str) -> Iterator[Evidence]:
    """Yield the evidence for an old run: a clone with its code and parameters, not yet reproduced, and its dvc.lock."""
    try:
        records = open_records()
    except NoEvidenceError as error:
        raise TapestryError(f"--run: {error}") from error
    run = _find_model_run(records, run_id)
    kept = {name: records.artifact(run, name) for name in ("dvc.lock", "params.yaml")}
    for name, content in kept.items():
        if content is None:
            raise TapestryError(
                f"--run: {shown_run(run)} has no artifact {name}: if the checkout was moved, run `tapestry relocate`; "
                "a run that stopped before the stage record has none and can't be audited"
            )
    with cloned(root, _commit(root, run)) as checkout:
        lock = checkout.parent / "dvc.lock"
        lock.write_bytes(kept["dvc.lock"] or b"")
        (checkout / "params.yaml").write_bytes(kept["params.yaml"] or b"")
        provide_raw(root, checkout)
        yield Evidence(checkout, lock, run)


def _find_model_run(records: Records, run_id: str) -> Run:
    """Find the run with this id; for the run of another stage, the model's run that it is nested below."""
    by_id = {run.info.run_id: run for run in records.runs}
    run = by_id.get(run_id)
    if run is not None and run.data.tags.get("stage") != MODEL_STAGE:
        run = by_id.get(run.data.tags.get(PARENT, ""))
    if run is None:
        known = ", ".join(shown_run(run) for run in records.models[-3:]) or "none"
        raise TapestryError(f"--run: MLflow has no run {shown(run_id)} of a model; the newest are {known}")
    return run


def _commit(root: Path, run: Run) -> str:
    """Find the commit of a run's code; if the code was changed in an experiment, the commit that DVC created for it."""
    commit = run.data.tags.get("git_commit", "unknown").removesuffix("-dirty")
    name = run.data.tags.get("dvc_exp")
    if name and run.data.tags["git_commit"].endswith("-dirty"):
        with suppress(OSError, subprocess.CalledProcessError):
            found = git(root, "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").splitlines()
            own = [line.split()[0] for line in found if line.endswith(f"/{name}")]
            return own[0] if own else commit
    return commit
