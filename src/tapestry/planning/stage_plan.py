"""The plan of a stage: what would happen to it, and why; as text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tapestry.core.errors import one_line

Action = Literal["unchanged", "always", "run", "restore", "maybe", "gone"]


@dataclass(frozen=True)
class Reason:
    """A reason why a stage isn't up to date.

    Attributes:
        kind: new (the stage has never run), command, parameter, fingerprint (an entry of what `source` writes), code,
            file, output, or upstream (a file that an earlier stage may change).
        name: the parameter, entry or file.
        change: modified, deleted, new, not in cache; for `upstream`, the stages that produce the file.
        old, new: values, for parameters, fingerprint entries and commands.
    """

    kind: str
    name: str
    change: str = "modified"
    old: Any = None
    new: Any = None

    def __str__(self) -> str:
        name = one_line(self.name)
        if self.kind in ("parameter", "fingerprint"):
            return f"{name}: {_value(self.old)} → {_value(self.new)}"
        if self.kind == "command":
            return f"its command is now {_value(self.new)}"
        if self.kind == "upstream":
            return f"{name} (of {self.change})"
        if self.kind == "new":
            return "it has never run"
        what = {"code": "code ", "output": "output "}.get(self.kind, "")
        said = {"deleted": "is missing", "not in cache": "isn't in DVC's cache", "new": "is new"}
        return f"{what}{name} {said.get(self.change, 'has changed')}"


@dataclass(frozen=True)
class StagePlan:
    """What would happen to a stage.

    Attributes:
        action: unchanged; always (runs each time); run; restore (changed, but DVC's cache has the result); maybe (runs
            if an output of an earlier stage changes, or if DVC's cache doesn't have the result); gone (with the changed
            parameters there is no such stage).
    """

    stage: str
    action: Action
    reasons: list[Reason] = field(default_factory=list)


def as_text(plans: Sequence[StagePlan], shown: int = 5) -> str:
    """Format one line a stage, with up to `shown` reasons, and a summary."""
    width = max(len(plan.stage) for plan in plans)
    lines = [f"{plan.stage:{width}}  {_sentence(plan, shown)}" for plan in plans]
    count = {action: sum(plan.action == action for plan in plans) for action in ("run", "maybe", "restore")}
    lines.append(
        f"of {len(plans)} stages {count['run']} would rerun, {count['maybe']} may, "
        f"{count['restore']} would come from DVC's cache; nothing was run or changed"
    )
    return "\n".join(lines)


def as_json(plans: Sequence[StagePlan]) -> list[dict[str, Any]]:
    """Return one JSON object a stage, with all reasons."""
    return [asdict(plan) for plan in plans]


def _sentence(plan: StagePlan, shown: int) -> str:
    reasons = ", ".join(map(str, plan.reasons[:shown]))
    if len(plan.reasons) > shown:
        reasons += f" and {len(plan.reasons) - shown} more"
    upstream = all(reason.kind == "upstream" for reason in plan.reasons)
    condition = "what it reads changes" if upstream else "DVC's cache doesn't have it"
    return {
        "unchanged": "unchanged",
        "always": "always runs",
        "run": f"would rerun: {reasons}",
        "restore": f"would come from DVC's cache: {reasons}",
        "maybe": f"may rerun, only if {condition}: {reasons}",
        "gone": "would no longer be a stage",
    }[plan.action]


def _value(value: Any) -> str:
    return one_line(json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value, 60)
