"""The code: committed, and that of the model's row."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tapestry.audit.claims import Finding, NoEvidenceError, Status, failed, or_passed, passed, unknown
from tapestry.audit.evidence import Evidence
from tapestry.audit.records import shown_run
from tapestry.core.errors import one_line
from tapestry.provenance.git import git
from tapestry.provenance.hashes import CODE

DECIDES = (*CODE, "params.yaml", "dvc.lock", "metrics", "requirements.lock", "pyproject.toml")
"""What must be committed for a commit to tell all of a result; other files that git doesn't know may lie about."""

_SHOWN = 5  # files in a message


def check_code(evidence: Evidence) -> list[Finding]:
    """That the checkout is clean, and its code is that of the model's row, as far as dvc.lock names it for stages."""
    findings = check_same_code(evidence)
    row = evidence.row
    if findings[0].status is Status.FAIL and row.data.tags.get("dvc_lock") == evidence.lock_hash:
        others = f"other code has changed since, at commit {row.data.tags.get('git_commit', 'unknown')}"
        findings = [passed(f"the code that dvc.lock names for stages is that of the row {shown_run(row)}; {others}")]
    return [*check_clean(evidence.root), *findings]


def check_clean(root: Path) -> list[Finding]:
    try:
        head = git(root, "rev-parse", "HEAD").strip()
        lines = git(root, "status", "--porcelain", "--untracked-files=all", "-z").split("\0")
    except (OSError, subprocess.CalledProcessError) as error:
        told = one_line((getattr(error, "stderr", "") or str(error)).strip())
        return [unknown(f"git tells no commit: {told}", "clone the repository with git, rather than unpack an archive")]
    entries = {line[3:]: line[:2] for line in lines if line[2:3] == " "}
    changed = [name for name, state in entries.items() if state != "??"]
    new = [name for name, state in entries.items() if state == "??" and _decides(name)]
    others = len(entries) - len(changed) - len(new)
    findings = []
    if changed:
        findings.append(failed(f"uncommitted changes: {_listed(changed)}", "commit them, or `git restore` them"))
    if new:
        findings.append(failed(f"not in git: {_listed(new)}", "`git add` and commit them, or remove them"))
    beside = f"; {others} other files aren't in git" if others else ""
    return or_passed(findings, f"the checkout is clean, at commit {head}{beside}")


def check_same_code(evidence: Evidence) -> list[Finding]:
    row = evidence.row
    tags = row.data.tags
    if "code_hash" not in tags:
        raise NoEvidenceError(f"the row {shown_run(row)} has no code_hash", "run `dvc repro --force`")
    if tags["code_hash"] == evidence.code_hash:
        return [passed(f"code hash {evidence.code_hash}, as in the row {shown_run(row)}")]
    commit = tags.get("git_commit", "unknown")
    return [
        failed(
            f"the code here has the hash {evidence.code_hash}, that of the row {shown_run(row)} has "
            f"{tags['code_hash']} (commit {commit})",
            f"run `dvc repro`, or check out {commit.removesuffix('-dirty')}, or audit that commit: "
            f"`tapestry audit --run {row.info.run_id}`",
        )
    ]


def _decides(name: str) -> bool:
    return any(name == path or name.startswith(f"{path}/") for path in DECIDES)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(one_line, names[:_SHOWN])) + more
