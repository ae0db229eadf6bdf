"""Error messages for a domain or a split that filtering left empty.

A message lists how many interactions each rule filtered, and names the parameter to change. To count them, the rules
are applied again, one at a time. That takes about as long as the first time, so it is done only after an error.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from tapestry.core.errors import TapestryError
from tapestry.sessionize.engine import Engine
from tapestry.sessionize.k_core import Condition, remove_once
from tapestry.sessionize.owners import CONTESTED, keep_owned_items
from tapestry.sessionize.periods import PeriodStarts
from tapestry.sessionize.rule_order import TOO_OLD, rules_in_order
from tapestry.sessionize.settings import SessionizeSettings

_SHARES = "validation_share"  # means validation_share and test_share: together they decide where training ends
_NO_END = 2**63 - 1
_NEW_USER = "of users without an interaction in the training period"
_FILTERED_USER = "of users who were filtered out of the training period"
_NEW_ITEM = "of items without an interaction in the training period"
_FILTERED_ITEM = "of items that were filtered out of the training period"

_Scope = int | None
"""What is counted: the index of a domain, or None for all domains."""


@dataclass(frozen=True)
class UnfilteredRows:
    """The table `rows` of `engine` with all loaded interactions, and what is needed to apply the rules to it again."""

    engine: Engine
    domains: list[str]
    settings: SessionizeSettings
    starts: PeriodStarts


@dataclass(frozen=True)
class _Step:
    """A rule, or a condition of the k-core, whose interactions are counted by themselves."""

    description: str  # which interactions it filters
    parameter: str  # of section `sessionize`
    apply: Callable[[], None]


@dataclass
class _Filtered:
    """What a rule filtered of one domain, or of all domains."""

    description: str
    parameter: str
    interactions: int = 0
    users: int = 0  # users whose last interaction was filtered


def empty_domains_error(unfiltered: UnfilteredRows, empty: list[str]) -> TapestryError:
    """Return the error for the domains `empty`, which have no interaction after filtering.

    For each of them (or once, if all domains are empty) the message lists what each rule filtered. It names the
    parameter of the rule that filtered the most.
    """
    domains = unfiltered.domains
    scopes: list[_Scope] = [None] if empty == domains else [domains.index(domain) for domain in empty]
    loaded = {scope: _count(unfiltered.engine, _where(scope)) for scope in scopes}
    filtered = _filtered_by_rule(unfiltered, scopes)
    details = " ".join(_describe(unfiltered, scope, loaded[scope], filtered[scope]) for scope in scopes)
    names = ", ".join(empty)
    enough_left = len(domains) - len(empty) >= unfiltered.settings.min_domains
    remove_domains = f" Or remove {names} from source.domains" if enough_left else ""
    return TapestryError(f"sessionize: no user remains in {names} after filtering. {details}{remove_domains}")


def _describe(unfiltered: UnfilteredRows, scope: _Scope, loaded: tuple[int, int], filtered: list[_Filtered]) -> str:
    name = "All domains" if scope is None else unfiltered.domains[scope]
    interactions, users = loaded
    if interactions == 0:
        return f"{name}: ingest wrote no interaction."
    parts = ", ".join(f"{part.interactions} {part.description} (users removed: {part.users})" for part in filtered)
    fix = _fix(_largest(filtered), unfiltered.settings)
    return f"{name}: {interactions} interactions of {users} users before filtering. Filtered: {parts}. {fix}."


def missing_target_error(unfiltered: UnfilteredRows, split: str) -> TapestryError:
    """Return the error for a period of the temporal split without a target after filtering.

    The message lists how many of the period's interactions were filtered for which reason. It names the parameter
    behind the most frequent reason. The table `core` holds the k-core of the training period.
    """
    assert unfiltered.starts is not None
    engine, settings = unfiltered.engine, unfiltered.settings
    start, end = unfiltered.starts if split == "validation" else (unfiltered.starts[1], _NO_END)
    in_period = f"timestamp >= {start} AND timestamp < {end}"
    loaded, _ = _count(engine, in_period)
    keep_owned_items(engine, settings, unfiltered.starts)
    owned, _ = _count(engine, in_period)
    filtered = {"of items of another domain": loaded - owned}
    filtered |= _filtered_after_training(engine, in_period, unfiltered.starts[0])
    most_frequent = max(filtered, key=lambda reason: filtered[reason])
    if loaded == 0 or most_frequent in (_NEW_USER, _NEW_ITEM):
        fix = f"Raise sessionize.{split}_share (now {getattr(settings, f'{split}_share')})"
    elif most_frequent in (_FILTERED_USER, _FILTERED_ITEM):
        fix = _fix(_largest(_filtered_by_rule(unfiltered, [None])[None]), settings)
    else:
        fix = _fix(_contested_parameter(settings), settings)
    day = datetime.datetime.fromtimestamp(start / 1000, datetime.UTC).date()
    if loaded:
        details = ". Filtered: " + ", ".join(f"{rows} {reason}" for reason, rows in filtered.items() if rows)
    else:
        details = ", because the test period begins at the same time"
    return TapestryError(
        f"sessionize: the {split} split has no target: after filtering, no interaction of the {split} period has an "
        f"earlier interaction of its user. The {split} period begins on {day} and had {loaded} interactions{details}. "
        f"{fix}"
    )


def _filtered_after_training(engine: Engine, in_period: str, validation_start: int) -> dict[str, int]:
    """Count the interactions of a later period by the reason why the training period has no such user or item."""
    flags = {
        f"{source}_{key}": f"(SELECT DISTINCT {key}, 1 AS {source}_{key} FROM {table})"
        for source, table in (("trained", f"rows WHERE timestamp < {validation_start}"), ("core", "core"))
        for key in ("user", "item")
    }
    joins = " ".join(f"LEFT JOIN {query} AS {name} USING ({name.partition('_')[2]})" for name, query in flags.items())
    counted = dict(
        engine.fetch(
            f"""SELECT reason, count(*) FROM (
            SELECT CASE WHEN trained_user.trained_user IS NULL THEN '{_NEW_USER}'
                WHEN core_user.core_user IS NULL THEN '{_FILTERED_USER}'
                WHEN trained_item.trained_item IS NULL THEN '{_NEW_ITEM}' ELSE '{_FILTERED_ITEM}' END AS reason
            FROM rows {joins} WHERE {in_period}
        ) AS reasons GROUP BY reason"""
        )
    )
    return {reason: counted.get(reason, 0) for reason in (_NEW_USER, _FILTERED_USER, _NEW_ITEM, _FILTERED_ITEM)}


def _largest(filtered: list[_Filtered]) -> str:
    """Return the parameter of the rule that filtered the most interactions.

    The temporal split always leaves later periods out of training, so the shares of the periods are returned only if
    nothing else was filtered.
    """
    without_shares = [part for part in filtered if part.parameter != _SHARES]
    return max(without_shares or filtered, key=lambda part: part.interactions).parameter


def _fix(parameter: str, settings: SessionizeSettings) -> str:
    now = getattr(settings, parameter)
    if parameter == "contested_items":
        return "Set sessionize.contested_items to owner (now drop)"
    if parameter == "item_identity":
        return "If each domain numbers its own items, set sessionize.item_identity to domain (now global)"
    if parameter == _SHARES:
        return f"Lower sessionize.validation_share (now {now}) or test_share (now {settings.test_share})"
    if parameter == "max_length":
        return f"Raise sessionize.max_length (now {now})"
    if parameter == "min_user_interactions" and now == 3 and settings.split == "leave_one_out":
        return "leave_one_out needs sessionize.min_user_interactions to be at least 3: set sessionize.split to temporal"
    return f"Lower sessionize.{parameter} (now {now})"


def _filtered_by_rule(unfiltered: UnfilteredRows, scopes: list[_Scope]) -> dict[_Scope, list[_Filtered]]:
    """Apply the rules again and count, for each scope, what each rule filters; rules that filter nothing are omitted.

    A rule of the k-core is applied several times. Its counts are added up.
    """
    found: dict[_Scope, dict[str, _Filtered]] = {scope: {} for scope in scopes}
    before = {scope: _count(unfiltered.engine, _where(scope)) for scope in scopes}
    for step in _steps(unfiltered):
        step.apply()
        for scope in scopes:
            after = _count(unfiltered.engine, _where(scope))
            filtered = found[scope].setdefault(step.description, _Filtered(step.description, step.parameter))
            filtered.interactions += before[scope][0] - after[0]
            filtered.users += before[scope][1] - after[1]
            before[scope] = after
    return {scope: [part for part in by_rule.values() if part.interactions] for scope, by_rule in found.items()}


def _steps(unfiltered: UnfilteredRows) -> Iterator[_Step]:
    """Yield the rules in order, and in place of the k-core its conditions; the iterated ones until they filter no more.

    The temporal split takes the k-core of the training period, so a step of its own first leaves out all later rows.
    """
    engine, settings, starts = unfiltered.engine, unfiltered.settings, unfiltered.starts

    def keep_training(start: int) -> None:
        engine.table("rows", f"SELECT * FROM rows WHERE timestamp < {start}")

    def step_of(condition: Condition) -> _Step:
        return _Step(f"of {condition.description}", condition.parameter, lambda: remove_once(engine, "rows", condition))

    for rule in rules_in_order(engine, unfiltered.domains, settings, starts):
        if rule.reason == CONTESTED:
            yield _Step("of items of another domain", _contested_parameter(settings), rule.apply)
            if starts:
                yield _Step("after the training period", _SHARES, partial(keep_training, starts[0]))
        elif rule.reason == TOO_OLD:
            yield _Step(f"older than the last {settings.max_length} of a user", "max_length", rule.apply)
        elif settings.k_core == "once":
            yield from map(step_of, rule.conditions)
        else:
            remaining, previous = _count(engine), None
            while remaining != previous:
                yield from map(step_of, rule.conditions)
                remaining, previous = _count(engine), remaining


def _contested_parameter(settings: SessionizeSettings) -> str:
    return "contested_items" if settings.contested_items == "drop" else "item_identity"


def _where(scope: _Scope) -> str:
    return "true" if scope is None else f"domain = {scope}"


def _count(engine: Engine, where: str = "true") -> tuple[int, int]:
    """Return the number of interactions and of users in the table `rows`."""
    ((interactions, users),) = engine.fetch(f"SELECT count(*), count(DISTINCT user) FROM rows WHERE {where}")
    return interactions, users
