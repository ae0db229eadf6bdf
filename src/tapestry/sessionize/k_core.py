"""The filters of users and items with too few interactions: as an iterated k-core, or each condition once.

The iterated k-core removes users and items until every remaining one has enough. Many papers filter once instead:
first users of too few domains, then items, then users, without counting again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from tapestry.sessionize.engine import Engine
from tapestry.sessionize.periods import PeriodStarts
from tapestry.sessionize.settings import SessionizeSettings

_ROUNDS_THAT_REWRITE = 3


class Condition(NamedTuple):
    """A condition under which a user or an item is removed."""

    parameter: str
    """The parameter of section `sessionize` that sets the bound."""
    key: str
    """The column that the condition groups by: `user` or `item`."""
    too_few: str
    """SQL aggregate over the rows of one user or item: true if it is removed."""
    description: str
    """Whose interactions are removed, for messages."""


def conditions(settings: SessionizeSettings, domains: int) -> list[Condition]:
    """Return the conditions in the order in which they are applied; `domains` is the number of domains."""
    users, items = settings.min_user_interactions, settings.min_item_interactions
    of_user = Condition(
        "min_user_interactions", "user", f"count(*) < {users}", f"users with fewer than {users} interactions"
    )
    of_item = Condition(
        "min_item_interactions", "item", f"count(*) < {items}", f"items with fewer than {items} interactions"
    )
    of_domains = _domains_condition(settings, settings.min_user_domain_interactions, domains)
    if settings.k_core == "iterated":
        return [of_user, of_domains, of_item]
    return [_domains_condition(settings, 1, domains), of_item, of_user, of_domains]


def _domains_condition(settings: SessionizeSettings, interactions: int, domains: int) -> Condition:
    """Make the condition of users with fewer than `min_domains` domains that have so many of their interactions."""
    wanted = settings.min_domains
    if interactions == 1:
        few = f"bit_count(bit_or(CAST(1 AS BIGINT) << domain)) < {wanted}"
        return Condition("min_domains", "user", few, f"users with fewer than {wanted} domains")
    enough = (
        f"CASE WHEN sum(CASE WHEN domain = {domain} THEN 1 ELSE 0 END) >= {interactions} THEN 1 ELSE 0 END"
        for domain in range(domains)
    )
    return Condition(
        "min_user_domain_interactions",
        "user",
        f"{' + '.join(enough)} < {wanted}",
        f"users with fewer than {wanted} domains of {interactions} interactions",
    )


def users_with_enough(settings: SessionizeSettings, domains: int, starts: PeriodStarts) -> str:
    """SQL for the `user_id` of each user whom the first conditions don't remove, by the interactions in `loaded`.

    No rule adds an interaction, so a user who has too few here has too few later. Most users of the raw reviews are
    such: to leave them out before anything else saves most of the time and memory. Where another rule comes first, all
    users are taken: their interactions count for that rule, or can break it.
    """
    if settings.truncate == "before" or settings.order == "given":
        return "SELECT DISTINCT user_id FROM loaded"
    first = takewhile(lambda condition: condition.key == "user", conditions(settings, domains))
    counted = f" WHERE timestamp < {starts[0]}" if starts else ""
    too_few = " OR ".join(condition.too_few for condition in first)
    return f"SELECT user_id FROM loaded{counted} GROUP BY user_id HAVING NOT ({too_few})"


def remove_once(engine: Engine, table: str, condition: Condition) -> None:
    """Remove from `table` the interactions of the users or items that meet the condition now."""
    key = condition.key
    engine.table(
        table,
        f"""SELECT * FROM {table} ANTI JOIN (
            SELECT {key} FROM {table} GROUP BY {key} HAVING {condition.too_few}
        ) AS to_remove USING ({key})""",
    )


def cut_to_k_core(engine: Engine, table: str, some: Sequence[Condition]) -> None:
    """Replace `table` by its iterated k-core: what is left when no user and no item meets a condition of `some`.

    Rounds alternate between items and users. The first round counts all items, since `users_with_enough` has already
    left out most users, and the second all users. A later round counts only items (or users) that lost an interaction
    in the round before, since no other count has changed.

    Most rows go in the first rounds, so these write the table again. Later rounds remove few rows. They only record
    the removed users and items, and the table is written once at the end.
    """
    too_few = {
        key: " OR ".join(condition.too_few for condition in some if condition.key == key) for key in ("user", "item")
    }
    for key in too_few:
        engine.table(f"removed_{key}", f"SELECT {key} FROM {table} WHERE 1 = 0")
    not_removed = "ANTI JOIN removed_user USING (user) ANTI JOIN removed_item USING (item)"
    key, other, counted = "item", "user", table
    rounds = 0
    while True:
        engine.table("to_remove", f"SELECT {key} FROM {counted} GROUP BY {key} HAVING {too_few[key]}")
        ((found,),) = engine.fetch("SELECT count(*) FROM to_remove")
        if found == 0 and rounds > 0:
            break
        if rounds > 0:
            engine.table(
                "to_recount", f"SELECT DISTINCT {other} FROM {table} SEMI JOIN to_remove USING ({key}) {not_removed}"
            )
        if rounds < _ROUNDS_THAT_REWRITE:
            engine.table(table, f"SELECT * FROM {table} ANTI JOIN to_remove USING ({key})")
        else:
            engine.table(f"removed_{key}", f"SELECT {key} FROM removed_{key} UNION ALL SELECT {key} FROM to_remove")
        key, other = other, key
        counted = f"{table} SEMI JOIN to_recount USING ({key}) {not_removed}" if rounds > 0 else table
        rounds += 1
    engine.table(table, f"SELECT * FROM {table} {not_removed}")
