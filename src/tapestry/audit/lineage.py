"""The claim `data`: trace the data of model and baselines back through the stages' runs to raw files and checksums."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

from tapestry.audit.claims import Finding, NoEvidenceError, failed, or_passed, passed, unknown
from tapestry.audit.evidence import Evidence
from tapestry.audit.records import shown_run
from tapestry.core.checkout import only_file
from tapestry.core.errors import TapestryError
from tapestry.provenance.git import git
from tapestry.source.checksums import digest_of, read_record
from tapestry.source.releases import RELEASES
from tapestry.source.source import find_raw_file, fingerprints

_AGAIN = "run `dvc repro`"


def check_lineage(evidence: Evidence) -> list[Finding]:
    """Check that each stage read the previous one's output, down to raw files with a published checksum.

    The ranks of the model and of the baselines are traced, too: the claim `figures` computes the figures from them.
    """
    findings = [*_raw(evidence), *_fingerprints(evidence)]
    baselines = evidence.parameters.evaluate.baselines
    steps = [(f"baseline@{name}", "data/sequences", f"data/baselines/{name}.parquet") for name in baselines]
    steps += [("evaluate", "data/sequences", "metrics/ranks.parquet")]
    steps += [("sessionize", "data/interactions", "data/sequences")]
    for domain in evidence.parameters.source.domains:
        raw = f"data/raw/{domain}"
        steps += [(f"ingest@{domain}", raw, f"data/interactions/{domain}.parquet"), (f"fetch@{domain}", "", raw)]
    run = evidence.model_run
    chain = [
        *_tagged(evidence, run.data.tags, "data_hash", "data/sequences", shown_run(run)),
        *(finding for step in steps for finding in _step(evidence, *step)),
    ]
    chained = f"train, evaluate and {len(baselines)} baselines ← sessionize ← ingest ← fetch"
    how = f"{chained}, {len(steps)} runs and their hashes, lead from {shown_run(run)} to data/raw"
    return [*or_passed(chain, how), *findings]


def _step(evidence: Evidence, stage: str, read: str, made: str) -> list[Finding]:
    makers = evidence.makers(stage)
    if not makers:
        return [unknown(f"no recorded run produced {made}", f"run `dvc repro --force --single-item {stage}`")]
    run, tags = makers[0], makers[0].data.tags
    findings = _tagged(evidence, tags, "data_hash", made, shown_run(run))
    return [*findings, *(_tagged(evidence, tags, "input_hash", read, shown_run(run)) if read else [])]


def _tagged(evidence: Evidence, tags: dict[str, str], tag: str, path: str, run: str) -> list[Finding]:
    here = evidence.content_hash(path)
    if tags.get(tag) == here:
        return []
    return [failed(f"{path} has the hash {here}, {run} has {tags.get(tag, 'none')} as {tag}", _AGAIN)]


def _fingerprints(evidence: Evidence) -> list[Finding]:
    """Check that data/source matches the raw files: DVC fetches them again only if it changes."""
    source = evidence.parameters.source
    if source.release == "files" and source.path is not None:
        source = dataclasses.replace(source, path=str(evidence.root / source.path))
    try:
        now = fingerprints(source, evidence.parameters.synthetic)
    except TapestryError as error:
        return [unknown(f"the raw files can't be read: {error}", "put them back to compare them")]
    findings = []
    for domain, fingerprint in now.items():
        path = evidence.root / f"data/source/{domain}.json"
        then = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        for key in fingerprint:
            if fingerprint[key] != then.get(key):
                where = evidence.parameters.source.path if source.release == "files" else source.release
                text = f"the raw data of {domain} in {where}: {key} is {fingerprint[key]}, data/source has"
                findings.append(failed(f"{text} {then.get(key)}", f"{_AGAIN}, or put the former file back"))
                break
    return findings


def _raw(evidence: Evidence) -> list[Finding]:
    """Check each domain's raw file against the checksum of its publisher or user."""
    release = evidence.parameters.source.release
    findings = []
    for domain in evidence.parameters.source.domains:
        try:
            raw = only_file(evidence.root / "data/raw" / domain, f"fetch@{domain}")
        except TapestryError as error:
            raise NoEvidenceError(str(error)) from error
        if release in RELEASES:
            findings.append(_published(evidence.root, raw, RELEASES[release].url(domain)))
        elif release == "files":
            findings.append(_check_user_file(evidence, domain, raw))
    if release == "synthetic":
        findings.append(passed(f"raw data is simulated, with the seed {evidence.parameters.synthetic.seed}"))
    return findings


def _published(root: Path, raw: Path, url: str) -> Finding:
    digest, name = digest_of(raw), raw.relative_to(root).as_posix()
    recorded = read_record(root / "checksums.json").get(url)
    if recorded is None:
        return unknown(f"{name}: checksums.json has no entry for {url}", _AGAIN)
    if recorded != digest:
        text = f"{name} is {digest}, but checksums.json has {recorded} for {url}"
        return failed(text, f"delete it in downloads/, then {_AGAIN}")
    if not _unchanged_in_git(root, Path("checksums.json")):
        text = f"{name} is {digest}; the entry for {url} is not in git"
        return unknown(text, "commit checksums.json")
    return passed(f"{name} is {digest}, as checksums.json in git has it for {url}")


def _check_user_file(evidence: Evidence, domain: str, raw: Path) -> Finding:
    digest, name = digest_of(raw), raw.relative_to(evidence.root).as_posix()
    path = evidence.root / f"data/source/{domain}.json"
    fingerprint = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if fingerprint.get("sha256") != digest.sha256:
        return failed(f"{name} is {digest}, data/source has sha256 {fingerprint.get('sha256')}", _AGAIN)
    try:
        own = find_raw_file(evidence.root / (evidence.parameters.source.path or ""), domain)
    except TapestryError:
        own = None
    if own is not None and _unchanged_in_git(evidence.root, own):
        return passed(f"{name} is {digest}, a copy of {own.name}, which is in git")
    return unknown(
        f"{name} is {digest}, your own file, without a published checksum",
        "nothing to do; to reproduce this elsewhere, use the file with that hash",
    )


def _unchanged_in_git(root: Path, path: Path) -> bool:
    try:
        git(root, "ls-files", "--error-unmatch", "--", str(path))
        return not git(root, "status", "--porcelain", "--", str(path))
    except (OSError, subprocess.CalledProcessError):
        return False
