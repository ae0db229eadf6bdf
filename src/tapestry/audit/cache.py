"""The claim `cache`: entries of DVC's cache match their names, and restoring them gives the recorded outputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tapestry.audit.claims import Finding, failed, or_passed, unknown
from tapestry.audit.evidence import Evidence
from tapestry.audit.records import inputs_of, shown_run
from tapestry.core.yaml_file import read_yaml
from tapestry.provenance.dvc_files import locked
from tapestry.provenance.hashes import dvc_md5
from tapestry.tracking.experiment import output_md5s

_SIZES = ("size", "nfiles")  # keys that DVC omits from the hashes that name entries


def check_cache(evidence: Evidence) -> list[Finding]:
    """Check that DVC would restore the outputs that the recorded runs produced."""
    folder = cache_folder(evidence.root)
    findings: list[Finding] = []
    entries = list(_entries(folder))
    current = {run_key(entry): stage for stage, entry in evidence.lock.items()}
    for path, entry in entries:
        key, stage = path.parent.name, _stage_of(entry)
        name = f"{_short(path)} ({stage})"
        if (run_key(entry), _hash(entry)) != (key, path.name):
            findings.append(failed(f"{name}: its content doesn't match the hash in its name", f"remove {path.parent}"))
        elif key in current and _outs(entry) != _outs(evidence.lock[stage]):
            text = f"{name}: would restore {_differences(_outs(entry), _outs(evidence.lock[stage]))}"
            findings.append(failed(text, f"remove {path.parent}, then run `dvc repro --force {stage}`"))
        else:
            findings += _compare_with_runs(evidence, path, stage, entry)
    wanted = [entry for path, entry in entries if path.parent.name in current]
    objects, damaged = _objects(
        folder, {md5 for entry in (*evidence.lock.values(), *wanted) for md5 in _outs(entry).values()}
    )
    findings += damaged
    return or_passed(findings, f"{len(entries)} entries of the run cache, {objects} cached files and folders")


def _compare_with_runs(evidence: Evidence, path: Path, stage: str, entry: Mapping[str, Any]) -> list[Finding]:
    """Check that recorded runs with the same inputs and parameters produced the outputs that an entry restores."""
    deps, params = locked(entry)["deps"], locked(entry)["params"]
    for run in evidence.records.ran(stage):
        if inputs_of(run) != deps or any(not _equal(run.data.params.get(key), v) for key, v in params.items()):
            continue
        made = output_md5s(run, _outs(entry))
        difference = _differences({out: _outs(entry)[out] for out in made}, made)
        if difference:
            text = f"{_short(path)} ({stage}): would restore {difference}, "
            text += f"which {shown_run(run)} made from the same inputs"
            return [failed(text, f"remove {path.parent}, then run `dvc repro --force {stage}`")]
    return []


def _objects(folder: Path, wanted: set[str]) -> tuple[int, list[Finding]]:
    """Count the cached files and folders in `wanted` that exist, and find those with wrong content."""
    pending, seen, count, findings = list(wanted), set(), 0, []
    while pending:
        md5 = pending.pop()
        path = object_path(folder, md5)
        if md5 in seen or not path.is_file():
            continue
        seen.add(md5)
        count += 1
        if dvc_md5(path) != md5.removesuffix(".dir"):
            mend = f"remove {path}; then run `dvc repro --force` for the stage that produces it, or `dvc fetch`"
            findings.append(failed(f"{_short(path)}: its content doesn't match the MD5 in its name", mend))
        elif md5.endswith(".dir"):
            pending += [str(item["md5"]) for item in json.loads(path.read_text(encoding="utf-8"))]
    if wanted and not count:
        findings.append(unknown("DVC's cache has nothing of dvc.lock", "run `dvc commit`, or `dvc fetch`"))
    return count, findings


def cache_folder(root: Path) -> Path:
    """Return the folder of DVC's cache for this checkout."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        return Path(repo.cache.legacy.path)


def object_path(folder: Path, md5: str) -> Path:
    """Return the cache's path of a file, or of a folder's list of files."""
    return folder / "files" / "md5" / md5[:2] / md5[2:]


def run_key(entry: Mapping[str, Any]) -> str:
    """Compute the key of DVC's run cache for a stage's command, inputs and parameters.

    Source: dvc/stage/cache.py
    """
    return _hash({**entry, "outs": [out["path"] for out in entry.get("outs", [])]})


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(_without_sizes(value), sort_keys=True).encode()).hexdigest()


def _without_sizes(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_sizes(inner) for key, inner in value.items() if key not in _SIZES}
    return [_without_sizes(inner) for inner in value] if isinstance(value, list) else value


def _entries(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted((folder / "runs").glob("*/*/*")):
        if not path.name.endswith(".tmp"):
            yield path, read_yaml(path)


def _stage_of(entry: Mapping[str, Any]) -> str:
    """Find the stage of a run-cache entry: `sh stages/python stages/run.py ingest Books` → `ingest@Books`."""
    words = str(entry["cmd"]).split()
    script = next((index for index, word in enumerate(words) if word.endswith(".py")), None)
    if script is None:
        return str(entry["cmd"])
    return "@".join(words[script + 1 :])


def _outs(entry: Mapping[str, Any]) -> dict[str, str]:
    return locked(entry)["md5"]


def _differences(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    pairs = (f"{path} as {md5}, not {expected.get(path)}" for path, md5 in found.items() if md5 != expected.get(path))
    return ", ".join(pairs)


def _equal(recorded: str | None, in_lock: str) -> bool:
    """Compare a parameter of a run with that of dvc.lock; MLflow's copy of an integral float is 24.0, not 24."""
    if recorded is None or recorded == in_lock:
        return recorded == in_lock
    try:
        return float(recorded) == float(in_lock)
    except ValueError:
        return False


def _short(path: Path) -> str:
    return f".dvc/cache/…/{path.parent.name[:12]}/{path.name[:12]}"
