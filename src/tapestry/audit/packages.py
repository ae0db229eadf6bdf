"""The claim `packages`: the installed packages are those of requirements.lock and of the model's run."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import InvalidRequirement, Requirement

from tapestry.audit.claims import Finding, failed, or_passed, unknown
from tapestry.audit.evidence import Evidence
from tapestry.audit.records import sha256, shown_run
from tapestry.tracking.experiment import MODEL_STAGE
from tapestry.tracking.packages import PACKAGES_FILE, installed_packages, normal_name, read_packages

_INSTALL = "run `make install`"


def check_packages(evidence: Evidence) -> list[Finding]:
    """Check the installed packages against requirements.lock and the run that trained the model."""
    installed = installed_packages()
    locked = read_packages((evidence.root / "requirements.lock").read_text(encoding="utf-8"))
    return [*_as_locked(installed, locked), *_as_recorded(evidence, installed, locked)]


def _as_locked(installed: dict[str, str], locked: dict[str, str]) -> list[Finding]:
    findings = []
    for name, version in locked.items():
        here = installed.get(name)
        # The local part of a version, such as +cpu of torch's build for processors, is of the same release.
        if here is None or version not in (here, here.partition("+")[0]):
            found = f"{name} {here} is installed" if here else f"{name} isn't installed"
            findings.append(failed(f"{found}, requirements.lock has {version}", _INSTALL))
    return or_passed(findings, f"the {len(locked)} packages of requirements.lock are installed in the locked versions")


def _as_recorded(evidence: Evidence, installed: dict[str, str], locked: dict[str, str]) -> list[Finding]:
    makers = evidence.makers(MODEL_STAGE)
    if not makers:
        return [unknown("no recorded run trained this model", "run `dvc repro --force train`")]
    run = makers[0]
    content = evidence.records.artifact(run, PACKAGES_FILE)
    if content is None:
        return [unknown(f"{shown_run(run)} has no list of packages ({PACKAGES_FILE})", "run `dvc repro --force train`")]
    if sha256(content) != run.data.tags.get("packages"):
        text = f"{PACKAGES_FILE} of {shown_run(run)} doesn't match the hash in its tag `packages`"
        return [failed(text, "the file or the tag was altered: run `dvc repro --force train`")]
    recorded = read_packages(content.decode())
    needed = _with_needs(set(locked))
    findings = []
    for name, version in {"python": run.data.tags.get("python", ""), **recorded}.items():
        here = platform.python_version() if name == "python" else installed.get(name)
        if here != version and (name == "python" or name in needed):
            now = f"{name} {here} is installed" if here else f"{name} isn't installed"
            text = f"{now}, {shown_run(run)} was made with {version}"
            findings.append(failed(text, f"{_INSTALL}; if that doesn't change it, run `dvc repro --force`"))
    return or_passed(findings, f"the installed packages are those that {shown_run(run)} was made with")


def _with_needs(names: set[str]) -> set[str]:
    """Add the installed dependencies of packages: a lock may omit those of torch."""
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needs = [Requirement(text) for text in requires(name) or []]
        except (PackageNotFoundError, InvalidRequirement, OSError):  # not installed, or no METADATA
            continue
        pending += [normal_name(n.name) for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})]
    return found
