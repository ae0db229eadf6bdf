"""Why nothing is left of a domain or of a split: the rules once more, each by itself, and what each of them took.

Done only where there is an error to tell: the counting takes about as long as the rules did.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tapestry.core.errors import TapestryError
from tapestry.sessionize.engine import Engine
from tapestry.sessionize.k_core import conditions
from tapestry.sessionize.settings import SessionizeSettings

_SHARES = "validation_share"  # stands for both shares, which say where the training period ends
_FOREVER = 2**63 - 1
_NEW_USER = "of users without an interaction in the training period"
_FILTERED_USER = "of users who were filtered in the training period"
_NEW_ITEM = "of items without an interaction in the training period"
_FILTERED_ITEM = "of items that were filtered in the training period"

Starts = tuple[int, int] | None


@dataclass(frozen=True)
class Replay:
    """Rules that cut the table `rows`, to be applied again; it holds all interactions that were loaded."""

    engine: Engine
    domains: list[str]
    settings: SessionizeSettings
    starts: Starts  # first millisecond of the validation and of the test period
    keep_owned: Callable[[], None]
    keep_recent: Callable[[], None]


@dataclass(frozen=True)
class _Rule:
    told: str  # whose interactions it takes
    parameter: str  # of sessionize
    apply: Callable[[], None]


@dataclass
class _Loss:
    told: str
    parameter: str
    rows: int = 0
    users: int = 0  # who had interactions before it and none after


def why_empty(replay: Replay, empty: list[str]) -> TapestryError:
    """The error for domains of which no interaction is left: what each rule took of them, or of all if all are empty,
    and the parameter of the rule that took the most."""
    places: list[int | None] = [None] if empty == replay.domains else [replay.domains.index(domain) for domain in empty]
    loaded = {place: _left(replay.engine, _of(place)) for place in places}
    losses = _losses(replay, places)
    told = " ".join(_told(replay, place, loaded[place], losses[place]) for place in places)
    or_without = ""
    if len(replay.domains) - len(empty) >= 2:
        or_without = f" Or leave {', '.join(empty)} out of source.domains"
    return TapestryError(f"sessionize: no user is left in {', '.join(empty)} after filtering. {told}{or_without}")


def _told(replay: Replay, place: int | None, loaded: tuple[int, int], losses: list[_Loss]) -> str:
    where = "All domains" if place is None else replay.domains[place]
    rows, users = loaded
    if rows == 0:
        return f"{where}: ingest left no interaction."
    parts = ", ".join(f"{loss.rows} {loss.told} (the last of {loss.users} users)" for loss in losses)
    mend = _mend(_worst(losses), replay.settings)
    return f"{where}: of {rows} interactions of {users} users were filtered {parts}. {mend}."


def why_no_target(replay: Replay, split: str) -> TapestryError:
    """The error for a period of the temporal split of which no interaction is left: what each rule took of it, and the
    parameter of the one that took the most. The table `core` holds what is left of the training period."""
    assert replay.starts is not None
    engine, settings = replay.engine, replay.settings
    start, end = replay.starts if split == "validation" else (replay.starts[1], _FOREVER)
    period = f"timestamp >= {start} AND timestamp < {end}"
    loaded, _ = _left(engine, period)
    replay.keep_owned()
    owned, _ = _left(engine, period)
    lost = {"of items of another domain": loaded - owned} | _lost_after_training(engine, period, replay.starts[0])
    worst = max(lost, key=lambda told: lost[told])
    if loaded == 0 or worst in (_NEW_USER, _NEW_ITEM):
        mend = f"Raise sessionize.{split}_share (now {getattr(settings, f'{split}_share')})"
    elif worst in (_FILTERED_USER, _FILTERED_ITEM):
        mend = _mend(_worst(_losses(replay, [None])[None]), settings)
    else:
        mend = _mend("item_identity", settings)
    day = datetime.datetime.fromtimestamp(start / 1000, datetime.UTC).date()
    if loaded:
        parts = "; filtered were " + ", ".join(f"{rows} {told}" for told, rows in lost.items() if rows)
    else:
        parts = ", as the test period begins at the same time"
    return TapestryError(
        f"sessionize: no {split} interaction is left with a history before it. The {split} period, from {day}, had "
        f"{loaded} interactions{parts}. {mend}"
    )


def _lost_after_training(engine: Engine, period: str, validation: int) -> dict[str, int]:
    """Rows of a later period by what the training period lacks of them."""
    marks = {
        f"{what}_{key}": f"(SELECT DISTINCT {key}, 1 AS {what}_{key} FROM {table})"
        for what, table in (("trained", f"rows WHERE timestamp < {validation}"), ("core", "core"))
        for key in ("user", "item")
    }
    joins = " ".join(f"LEFT JOIN {query} AS {name} USING ({name.partition('_')[2]})" for name, query in marks.items())
    rows = dict(
        engine.fetch(
            f"""SELECT why, count(*) FROM (
            SELECT CASE WHEN trained_user.trained_user IS NULL THEN '{_NEW_USER}'
                WHEN core_user.core_user IS NULL THEN '{_FILTERED_USER}'
                WHEN trained_item.trained_item IS NULL THEN '{_NEW_ITEM}' ELSE '{_FILTERED_ITEM}' END AS why
            FROM rows {joins} WHERE {period}
        ) AS reasons GROUP BY why"""
        )
    )
    return {why: rows.get(why, 0) for why in (_NEW_USER, _FILTERED_USER, _NEW_ITEM, _FILTERED_ITEM)}


def _worst(losses: list[_Loss]) -> str:
    """The parameter of the rule that took the most. That later periods aren't trained on counts if nothing else did."""
    of_rules = [loss for loss in losses if loss.parameter != _SHARES]
    return max(of_rules or losses, key=lambda loss: loss.rows).parameter


def _mend(parameter: str, settings: SessionizeSettings) -> str:
    now = getattr(settings, parameter)
    if parameter == "item_identity":
        return "If each domain numbers its items by itself, set sessionize.item_identity to domain (now global)"
    if parameter == _SHARES:
        return f"Lower sessionize.validation_share (now {now}) or test_share (now {settings.test_share})"
    if parameter == "max_length":
        return f"Raise sessionize.max_length (now {now})"
    if parameter == "min_user_interactions" and now == 3 and settings.split == "leave_one_out":
        return "sessionize.min_user_interactions is 3, the least with leave_one_out: set sessionize.split to temporal"
    return f"Lower sessionize.{parameter} (now {now})"


def _losses(replay: Replay, places: list[int | None]) -> dict[int | None, list[_Loss]]:
    """What each rule takes of each place, which is a domain or, as None, all of them; rules that take nothing are left
    out."""
    found: dict[int | None, dict[str, _Loss]] = {place: {} for place in places}
    before = {place: _left(replay.engine, _of(place)) for place in places}
    for rule in _rules(replay):
        rule.apply()
        for place in places:
            after = _left(replay.engine, _of(place))
            loss = found[place].setdefault(rule.told, _Loss(rule.told, rule.parameter))
            loss.rows += before[place][0] - after[0]
            loss.users += before[place][1] - after[1]
            before[place] = after
    return {place: [loss for loss in by_rule.values() if loss.rows] for place, by_rule in found.items()}


def _rules(replay: Replay) -> Iterator[_Rule]:
    """The rules in order; those of the core in turn, until none takes anything."""

    def keep(query: str) -> Callable[[], None]:
        return lambda: replay.engine.table("rows", f"SELECT * FROM rows {query}")

    yield _Rule("of items of another domain", "item_identity", replay.keep_owned)
    if replay.starts:
        yield _Rule("after the training period", _SHARES, keep(f"WHERE timestamp < {replay.starts[0]}"))
    core = [
        _Rule(f"of {told}", parameter, keep(_without(key, too_few)))
        for parameter, key, too_few, told in conditions(replay.settings)
    ]
    left, before = _left(replay.engine), None
    while left != before:
        yield from core
        left, before = _left(replay.engine), left
    yield _Rule(f"older than the last {replay.settings.max_length} of a user", "max_length", replay.keep_recent)


def _without(key: str, too_few: str) -> str:
    return f"ANTI JOIN (SELECT {key} FROM rows GROUP BY {key} HAVING {too_few}) AS leaving USING ({key})"


def _of(place: int | None) -> str:
    return "true" if place is None else f"domain = {place}"


def _left(engine: Engine, where: str = "true") -> tuple[int, int]:
    """Rows and users."""
    ((rows, users),) = engine.fetch(f"SELECT count(*), count(DISTINCT user) FROM rows WHERE {where}")
    return rows, users
