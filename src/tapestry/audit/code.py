"""The claim `code`: the code is committed, and is that of the model's run."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tapestry.audit.claims import Finding, NoEvidenceError, Status, failed, or_passed, passed, unknown
from tapestry.audit.evidence import Evidence
from tapestry.audit.records import shown_run
from tapestry.core.errors import one_line
from tapestry.provenance.git import git, git_message
from tapestry.provenance.hashes import CODE

DECIDES = (*CODE, "params.yaml", "dvc.lock", "metrics", "requirements.lock", "pyproject.toml")
"""The files that must be committed so that a commit determines a result; other untracked files may exist."""

_SHOWN = 5  # files in a message


def check_code(evidence: Evidence) -> list[Finding]:
    """Check that the checkout is clean, and that its code is that of the model's run.

    A change of code that dvc.lock names for no stage is accepted.
    """
    findings = check_same_code(evidence)
    run = evidence.model_run
    if findings[0].status is Status.FAIL and run.data.tags.get("dvc_lock") == evidence.lock_hash:
        since = f"other code has changed since, at commit {run.data.tags.get('git_commit', 'unknown')}"
        findings = [passed(f"the code that dvc.lock names for stages is that of the run {shown_run(run)}; {since}")]
    return [*check_clean(evidence.root), *findings]


def check_clean(root: Path) -> list[Finding]:
    """Check that no file that determines a result is changed or untracked."""
    try:
        head = git(root, "rev-parse", "HEAD").strip()
        lines = git(root, "status", "--porcelain", "--untracked-files=all", "-z").split("\0")
    except (OSError, subprocess.CalledProcessError) as error:
        text = f"git doesn't know the commit: {git_message(error)}"
        return [unknown(text, "clone the repository with git, rather than unpack an archive")]
    entries = {line[3:]: line[:2] for line in lines if line[2:3] == " "}
    changed = [name for name, state in entries.items() if state != "??"]
    new = [name for name, state in entries.items() if state == "??" and _decides(name)]
    others = len(entries) - len(changed) - len(new)
    findings = []
    if changed:
        findings.append(failed(f"uncommitted changes: {_listed(changed)}", "commit them, or `git restore` them"))
    if new:
        findings.append(failed(f"not in git: {_listed(new)}", "`git add` and commit them, or remove them"))
    untracked = f"; {others} other files aren't in git" if others else ""
    return or_passed(findings, f"the checkout is clean, at commit {head}{untracked}")


def check_same_code(evidence: Evidence) -> list[Finding]:
    """Check that the hash of the code is that of the model's run."""
    run = evidence.model_run
    tags = run.data.tags
    if "code_hash" not in tags:
        raise NoEvidenceError(f"the run {shown_run(run)} has no code_hash", "run `dvc repro --force`")
    if tags["code_hash"] == evidence.code_hash:
        return [passed(f"code hash {evidence.code_hash}, as in the run {shown_run(run)}")]
    commit = tags.get("git_commit", "unknown")
    return [
        failed(
            f"the code here has the hash {evidence.code_hash}, the run {shown_run(run)} has "
            f"{tags['code_hash']} (commit {commit})",
            f"run `dvc repro`, or check out {commit.removesuffix('-dirty')}, or audit that commit: "
            f"`tapestry audit --run {run.info.run_id}`",
        )
    ]


def _decides(name: str) -> bool:
    return any(name == path or name.startswith(f"{path}/") for path in DECIDES)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(one_line, names[:_SHOWN])) + more
