"""The rules in the order in which they are applied: the one place that says it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tapestry.sessionize.engine import Engine
from tapestry.sessionize.k_core import Condition, conditions, cut_to_k_core, remove_once
from tapestry.sessionize.order import give_positions, keep_most_recent
from tapestry.sessionize.owners import CONTESTED, keep_owned_items
from tapestry.sessionize.periods import PeriodStarts
from tapestry.sessionize.settings import SessionizeSettings

TOO_FEW = "too few interactions or domains"
TOO_OLD = "older than max_length"


@dataclass(frozen=True)
class Rule:
    """A rule that filters interactions of the table `rows`."""

    reason: str
    """`CONTESTED`, `TOO_FEW` or `TOO_OLD`; two rules may have one reason."""
    apply: Callable[[], None]
    conditions: Sequence[Condition] = ()
    """Of a rule with the reason `TOO_FEW`: which users and items it removes, in this order."""


def rules_in_order(
    engine: Engine, domains: list[str], settings: SessionizeSettings, starts: PeriodStarts
) -> list[Rule]:
    """Return the rules, in order; `tapestry.sessionize.sessionize` describes them."""
    wanted = conditions(settings, len(domains))

    def enough(some: Sequence[Condition]) -> Rule:
        return Rule(TOO_FEW, lambda: _remove(engine, some, settings, starts), some)

    keep = [enough(wanted)]
    if settings.truncate == "before":
        shorten = Rule(TOO_OLD, lambda: keep_most_recent(engine, domains, settings))
        # `once` first removes users of too few domains, and items; it counts users by what is left of their sequence
        keep = [enough(wanted[:2]), shorten, enough(wanted[2:])] if settings.k_core == "once" else [shorten, *keep]
    return [
        Rule(CONTESTED, lambda: keep_owned_items(engine, settings, starts)),
        *keep,
        Rule(TOO_OLD, lambda: give_positions(engine, domains, settings, starts)),
    ]


def _remove(engine: Engine, some: Sequence[Condition], settings: SessionizeSettings, starts: PeriodStarts) -> None:
    """Filter users and items with too few interactions, by the iterated k-core or once.

    The temporal split takes the k-core of the training period (table `core`). Of later interactions it keeps those of
    a user and an item of the core.
    """
    table = "core" if starts else "rows"
    if starts:
        engine.table("core", f"SELECT * FROM rows WHERE timestamp < {starts[0]}")
    if settings.k_core == "iterated":
        cut_to_k_core(engine, table, some)
    else:
        for condition in some:
            remove_once(engine, table, condition)
    if starts:
        engine.table(
            "rows",
            """SELECT * FROM rows SEMI JOIN (SELECT DISTINCT user FROM core) AS users USING (user)
            SEMI JOIN (SELECT DISTINCT item FROM core) AS items USING (item)""",
        )
