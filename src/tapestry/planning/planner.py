"""The stages one by one, in the order in which DVC would run them, with what is known by then of their outputs."""

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
class _Made:
    """An output of a stage that has been planned.

    Attributes:
        hash: DVC's, of what it will hold; None while that isn't known.
        as_locked: whether dvc.lock has it so.
        as_it_is: whether it holds that now.
    """

    stage: str
    hash: Any = None
    as_locked: bool = False
    as_it_is: bool = False


class Planner:
    """Goes through the stages, and keeps of each output what is known of it.

    Args:
        written: what `source` is about to write, by path.
    """

    def __init__(self, written: Mapping[str, str]) -> None:
        self._written = written
        self._made: dict[str, _Made] = {}

    def plan(self, repo: Any) -> list[StagePlan]:
        from dvc.repo.reproduce import get_active_graph, plan_repro

        return [self._plan_stage(stage) for stage in plan_repro(get_active_graph(repo.index.graph))]

    def _plan_stage(self, stage: Any) -> StagePlan:
        name = stage.addressing
        if stage.always_changed:
            self._made |= {out.fs_path: _Made(name) for out in stage.outs}
            return StagePlan(name, "always")
        certain, maybe = self._reasons(stage)
        if not certain and not maybe:
            self._made |= {out.fs_path: _Made(name, out.hash_info, True, True) for out in stage.outs}
            return StagePlan(name, "unchanged")
        locked = {out.fs_path: out.hash_info for out in stage.outs}  # before the run cache is asked, which changes them
        restored = {} if maybe else self._restored(stage, [reason.kind for reason in certain])
        for out in stage.outs:
            hash_to_be = restored.get(out.fs_path)
            as_it_is = hash_to_be is not None and out.exists and out.get_hash() == hash_to_be
            self._made[out.fs_path] = _Made(name, hash_to_be, hash_to_be == locked[out.fs_path], as_it_is)
        action: Action = "restore" if restored else "run" if certain and not (maybe and _cacheable(stage)) else "maybe"
        return StagePlan(name, action, certain or maybe)

    def _reasons(self, stage: Any) -> tuple[list[Reason], list[Reason]]:
        """Those that make it run, and those that may: outputs that aren't known yet."""
        certain = []
        if not any(item.hash_info for item in (*stage.deps, *stage.outs)):
            certain.append(Reason("new", stage.addressing))
        else:
            if stage.cmd_changed:
                certain.append(Reason("command", "command", new=stage.cmd))
            certain += [reason for dep in stage.deps for reason in self._of_dependency(dep)]
            certain += [Reason("output", name, change) for out in stage.outs for name, change in out.status().items()]
        maybe = [Reason("upstream", str(d), ", ".join(m)) for d in stage.deps if (m := self._makers_unknown(d))]
        return certain, maybe

    def _makers_unknown(self, dep: Any) -> list[str]:
        """The stages whose outputs in a dependency aren't known yet."""
        if dep.fs_path in self._written:
            return []
        return [made.stage for made in self._parts(dep) if made.hash is None]

    def _of_dependency(self, dep: Any) -> list[Reason]:
        if hasattr(dep, "params"):
            return _changed_parameters(dep)
        if dep.fs_path in self._written:
            return _changed_fingerprint(dep, self._written[dep.fs_path])
        if self._makers_unknown(dep):
            return []
        if not self._parts(dep):
            kind = "code" if dep.def_path.startswith(("src/", "stages/")) else "file"
            return [Reason(kind, name, change) for name, change in dep.status().items()]
        return [] if self._to_be(dep) == dep.hash_info else [Reason("file", str(dep))]

    def _parts(self, dep: Any) -> list[_Made]:
        """The outputs that a dependency is, is in, or holds."""
        inside = (dep.fs_path + "/", dep.fs_path)
        return [
            made
            for path, made in self._made.items()
            if path == dep.fs_path or path.startswith(inside[0]) or inside[1].startswith(path + "/")
        ]

    def _to_be(self, dep: Any) -> Any:
        """The hash that a dependency will have; None of a folder of which a part changes."""
        if dep.fs_path in self._written:
            return type(dep.hash_info)("md5", _md5(self._written[dep.fs_path]))
        if dep.fs_path in self._made:
            return self._made[dep.fs_path].hash
        parts = self._parts(dep)
        if all(made.as_it_is for made in parts):
            return dep.get_hash() if dep.exists else None
        return dep.hash_info if all(made.as_locked for made in parts) else None

    def _restored(self, stage: Any, kinds: Sequence[str]) -> dict[str, Any]:
        """The hashes of the outputs that DVC would take from its cache, by path; none where it would run the stage.

        This follows dvc.stage.cache.StageCache.restore, which can't be asked about files that aren't there yet.
        """
        from dvc.stage.serialize import to_single_stage_lockfile

        cache = stage.repo.stage_cache
        if set(kinds) == {"output"}:
            entry = to_single_stage_lockfile(stage)
        else:
            for dep in stage.deps:
                dep.update_legacy_hash_name(force=True)
                dep.hash_info = dep.get_hash() if hasattr(dep, "params") else self._to_be(dep)
                dep.meta = type(dep.meta)()  # it holds the locked hash too
                if not dep.hash_info or not dep.exists:
                    return {}
            entry = cache._load(stage)
        if entry is None:
            return {}
        cached = cache._create_stage(entry, wdir=stage.wdir)
        return {out.fs_path: out.hash_info for out in cached.outs} if cached.outs_cached() else {}


def _cacheable(stage: Any) -> bool:
    """Whether DVC's run cache takes a stage: not where an output that is no metric or plot isn't cached."""
    return all(out.use_cache or out.is_metric or out.is_plot for out in stage.outs)


def _changed_parameters(dep: Any) -> list[Reason]:
    """A reason for each parameter that differs from dvc.lock; of a section, for each in it."""
    locked, now = dep.hash_info.value or {}, dep.read_params()
    reasons = []
    for name in dep.params:
        old, new = (flat({name: values[name]}) if name in values else {} for values in (locked, now))
        changed = [key for key in dict.fromkeys((*old, *new)) if old.get(key, ...) != new.get(key, ...)]
        reasons += [Reason("parameter", key, old=old.get(key), new=new.get(key)) for key in changed]
    return reasons


def _changed_fingerprint(dep: Any, text: str) -> list[Reason]:
    """A reason for each entry of a fingerprint of raw data that differs; for the whole, if the old one is lost."""
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
