"""Plan the stages one by one, in the order in which DVC would run them, with what is known of their future outputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapestry.planning.overrides import parameter_names
from tapestry.planning.stage_plan import Action, Reason, StagePlan
from tapestry.provenance.dvc_files import flat


@dataclass(frozen=True)
class _Output:
    """An output of a stage that is already planned.

    Attributes:
        stage: the stage that produces it.
        hash: DVC's hash of its future content; None while that is unknown.
        locked: whether dvc.lock has this hash.
        on_disk: whether the file or folder has this content now.
    """

    stage: str
    hash: Any = None
    locked: bool = False
    on_disk: bool = False


def pipeline_stages(repo: Any) -> list[Any]:
    """Return the stages of the dvc.yaml at the root: studies have their own, which `dvc repro` doesn't run."""
    from dvc.dvcfile import PROJECT_FILE

    return list(repo.stage.collect(PROJECT_FILE))


class Planner:
    """Plans the stages in order, and remembers the outputs of those it has planned.

    Args:
        fingerprints: by path, the text that the stage `source` would write.
    """

    def __init__(self, fingerprints: Mapping[str, str]) -> None:
        self._fingerprints = fingerprints
        self._outputs: dict[str, _Output] = {}

    def plan(self, repo: Any) -> list[StagePlan]:
        """Plan the stages that `dvc repro` would look at in a DVC repository (`dvc.repo.Repo`), in its order."""
        from dvc.repo.reproduce import get_active_graph, plan_repro

        stages = plan_repro(get_active_graph(repo.index.graph), pipeline_stages(repo))
        return [self._plan_stage(stage) for stage in stages]

    def _plan_stage(self, stage: Any) -> StagePlan:
        name = stage.addressing
        if stage.always_changed:
            self._outputs |= {out.fs_path: _Output(name) for out in stage.outs}
            return StagePlan(name, "always")
        certain, maybe = self._reasons(stage)
        if not certain and not maybe:
            self._outputs |= {out.fs_path: _Output(name, out.hash_info, True, True) for out in stage.outs}
            return StagePlan(name, "unchanged")
        locked = {out.fs_path: out.hash_info for out in stage.outs}  # _restored changes hash_info
        restored = {} if maybe else self._restored(stage, [reason.kind for reason in certain])
        for out in stage.outs:
            future_hash = restored.get(out.fs_path)
            on_disk = future_hash is not None and out.exists and out.get_hash() == future_hash
            self._outputs[out.fs_path] = _Output(name, future_hash, future_hash == locked[out.fs_path], on_disk)
        action: Action = "restore" if restored else "run" if certain and not (maybe and _cacheable(stage)) else "maybe"
        return StagePlan(name, action, certain or maybe)

    def _reasons(self, stage: Any) -> tuple[list[Reason], list[Reason]]:
        """Return the reasons that make a stage run, and those that may: inputs whose future content is unknown."""
        certain = []
        if not any(item.hash_info for item in (*stage.deps, *stage.outs)):
            certain.append(Reason("new", stage.addressing))
        else:
            if stage.cmd_changed:
                certain.append(Reason("command", "command", new=stage.cmd))
            certain += [reason for dep in stage.deps for reason in self._dependency_reasons(dep)]
            certain += [Reason("output", name, change) for out in stage.outs for name, change in out.status().items()]
        maybe = [Reason("upstream", str(d), ", ".join(m)) for d in stage.deps if (m := self._undetermined_producers(d))]
        return certain, maybe

    def _undetermined_producers(self, dep: Any) -> list[str]:
        """List the stages whose outputs overlap a dependency, and aren't known yet."""
        if dep.fs_path in self._fingerprints:
            return []
        return [output.stage for output in self._overlapping_outputs(dep) if output.hash is None]

    def _dependency_reasons(self, dep: Any) -> list[Reason]:
        if hasattr(dep, "params"):
            return _changed_parameters(dep)
        if dep.fs_path in self._fingerprints:
            return _changed_fingerprint(dep, self._fingerprints[dep.fs_path])
        if self._undetermined_producers(dep):
            return []
        if not self._overlapping_outputs(dep):
            kind = "code" if dep.def_path.startswith(("src/", "stages/", "baselines/")) else "file"
            return [Reason(kind, name, change) for name, change in dep.status().items()]
        return [] if self._future_hash(dep) == dep.hash_info else [Reason("file", str(dep))]

    def _overlapping_outputs(self, dep: Any) -> list[_Output]:
        """List the planned outputs that equal, contain or lie in a dependency."""
        inside = (dep.fs_path + "/", dep.fs_path)
        return [
            output
            for path, output in self._outputs.items()
            if path == dep.fs_path or path.startswith(inside[0]) or inside[1].startswith(path + "/")
        ]

    def _future_hash(self, dep: Any) -> Any:
        """Return the future hash of a dependency; None for a folder of which a part changes."""
        if dep.fs_path in self._fingerprints:
            return type(dep.hash_info)("md5", _md5(self._fingerprints[dep.fs_path]))
        if dep.fs_path in self._outputs:
            return self._outputs[dep.fs_path].hash
        parts = self._overlapping_outputs(dep)
        if all(output.on_disk for output in parts):
            return dep.get_hash() if dep.exists else None
        return dep.hash_info if all(output.locked for output in parts) else None

    def _restored(self, stage: Any, kinds: Sequence[str]) -> dict[str, Any]:
        """Return the hashes of the outputs that DVC would restore, by path; empty if it would run the stage.

        This follows dvc.stage.cache.StageCache.restore, which needs files that don't exist yet.
        """
        from dvc.stage.serialize import to_single_stage_lockfile

        cache = stage.repo.stage_cache
        if set(kinds) == {"output"}:
            entry = to_single_stage_lockfile(stage)
        else:
            for dep in stage.deps:
                dep.update_legacy_hash_name(force=True)
                dep.hash_info = dep.get_hash() if hasattr(dep, "params") else self._future_hash(dep)
                dep.meta = type(dep.meta)()  # the former meta contains the locked hash
                if not dep.hash_info or not dep.exists:
                    return {}
            entry = cache._load(stage)
        if entry is None:
            return {}
        cached = cache._create_stage(entry, wdir=stage.wdir)
        return {out.fs_path: out.hash_info for out in cached.outs} if cached.outs_cached() else {}


def _cacheable(stage: Any) -> bool:
    """Return whether DVC's run cache stores a stage: an uncached output that is no metric or plot prevents it."""
    return all(out.use_cache or out.is_metric or out.is_plot for out in stage.outs)


def _changed_parameters(dep: Any) -> list[Reason]:
    """Return a reason for each parameter that differs from dvc.lock; a section is compared parameter by parameter."""
    locked, now = dep.hash_info.value or {}, dep.read_params()
    reasons = []
    for name in dep.params:
        old, new = (flat({name: values[name]}) if name in values else {} for values in (locked, now))
        changed = [key for key in dict.fromkeys((*old, *new)) if old.get(key, ...) != new.get(key, ...)]
        reasons += [Reason("parameter", key, old=old.get(key), new=new.get(key)) for key in changed]
    return reasons


def _changed_fingerprint(dep: Any, text: str) -> list[Reason]:
    """Return a reason for each entry of a fingerprint that differs; if the old one is lost, one for the whole."""
    if dep.hash_info.value == _md5(text):
        return []
    before = Path(dep.fs_path)
    if not before.is_file() or _md5(before.read_text(encoding="utf-8")) != dep.hash_info.value:
        return [Reason("file", str(dep))]
    old, new = flat(json.loads(before.read_text(encoding="utf-8"))), flat(json.loads(text))
    names = [name for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name)]
    known = parameter_names()
    return [
        Reason("parameter", name, old=old.get(name), new=new.get(name))
        if name in known
        else Reason("fingerprint", f"{dep}: {name}", old=old.get(name), new=new.get(name))
        for name in names
    ]


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
