"""The audit: all claims about a checkout and its model's MLflow run, and the functions that check them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tapestry.audit.artifacts import check_artifacts
from tapestry.audit.cache import check_cache
from tapestry.audit.claims import Claim, Finding, NoEvidenceError, Status, failed
from tapestry.audit.code import check_code, check_same_code
from tapestry.audit.counts import check_counts
from tapestry.audit.evidence import Evidence
from tapestry.audit.figures import check_figures
from tapestry.audit.inputs import check_inputs
from tapestry.audit.lineage import check_lineage
from tapestry.audit.lock import check_lock
from tapestry.audit.packages import check_packages
from tapestry.audit.pickles import check_pickles
from tapestry.audit.reproducibility import check_settings
from tapestry.audit.rerun import TITLE, check_rerun, check_run_again
from tapestry.core.errors import TapestryError, one_line

Check = Callable[[Evidence], list[Finding]]

CLAIMS: dict[str, tuple[str, Check]] = {
    "code": ("the checkout is clean, and its code is that of the model's run", check_code),
    "lock": ("dvc.lock matches files, parameters and code", check_lock),
    "packages": ("the installed packages are those of requirements.lock and of the model's run", check_packages),
    "figures": ("every figure follows from the ranks, and is the one that MLflow holds for this model", check_figures),
    "data": ("the data of model and baselines is traced, run by run, to raw files and their checksums", check_lineage),
    "settings": ("seeds, threads, processor level and device are recorded", check_settings),
    "rows": ("rows add up at each stage: in = kept + quarantined + filtered", check_counts),
    "pickles": ("no pickle in models, data and artifacts", check_pickles),
    "inputs": ("no input was edited while a stage ran", check_inputs),
    "cache": ("DVC's cache would restore the outputs of the recorded runs", check_cache),
    "artifacts": ("the files of MLflow's runs can be opened", check_artifacts),
}


CLAIMS_OF_OLD_RUN = ("packages", "figures", "data", "settings", "rows", "pickles", "inputs", "artifacts")
"""The claims that can be checked about an old run after it has been reproduced, in addition to its code."""


def audit_checkout(evidence: Evidence, again: bool) -> list[Claim]:
    """Check all claims about a checkout; with `again`, also reproduce its commit and compare the outputs."""
    with evidence.hashing_shown():
        claims = [_checked(name, *CLAIMS[name], evidence) for name in CLAIMS]
    return [*claims, _checked("rerun", TITLE, check_rerun, evidence)] if again else claims


def audit_run(evidence: Evidence, root: Path) -> list[Claim]:
    """Reproduce an old run in a clone (the root of `evidence`), and check the claims about the result.

    Args:
        root: the user's checkout.
    """
    code = _checked("code", "the code at its commit is that of the run", check_same_code, evidence)
    again = _checked("rerun", TITLE, lambda found: check_run_again(found, root), evidence)
    with evidence.hashing_shown():
        return [code, again, *(_checked(name, *CLAIMS[name], evidence) for name in CLAIMS_OF_OLD_RUN)]


def _checked(name: str, title: str, check: Check, evidence: Evidence) -> Claim:
    """Run a check. A file that can't be read makes the claim FAIL; a missing file makes it UNKNOWN."""
    try:
        findings = check(evidence)
    except NoEvidenceError as error:
        findings = [error.finding]
    except FileNotFoundError as error:
        findings = [
            NoEvidenceError(f"{error.filename or error} is not there", "run `dvc checkout`, or `dvc repro`").finding
        ]
    except (TapestryError, OSError, ValueError, KeyError, TypeError) as error:
        detail = str(error) if isinstance(error, TapestryError) else f"{type(error).__name__}: {error}"
        findings = [failed(f"it can't be checked: {one_line(detail, 500)}", "run `dvc repro --force`")]
    return Claim(name, title, tuple(findings))


def worst(claims: Sequence[Claim]) -> Status:
    """Return the worst status of several claims."""
    return max(claim.status for claim in claims)
