"""The iterated k-core: remove users and items with too few interactions until every remaining one has enough."""

from __future__ import annotations

from typing import NamedTuple

from tapestry.sessionize.engine import Engine
from tapestry.sessionize.settings import SessionizeSettings

_ROUNDS_THAT_REWRITE = 3


class Condition(NamedTuple):
    """A condition under which the k-core removes a user or an item."""

    parameter: str
    """The parameter of section `sessionize` that sets the bound."""
    key: str
    """The column that the condition groups by: `user` or `item`."""
    too_few: str
    """SQL aggregate over the rows of one user or item: true if it is removed."""
    description: str
    """Whose interactions are removed, for messages."""


def conditions(settings: SessionizeSettings) -> list[Condition]:
    """Return the conditions of the k-core, in the order in which they are applied."""
    users, items, domains = settings.min_user_interactions, settings.min_item_interactions, settings.min_domains
    active_domains = "bit_count(bit_or(CAST(1 AS BIGINT) << domain))"
    return [
        Condition(
            "min_user_interactions", "user", f"count(*) < {users}", f"users with fewer than {users} interactions"
        ),
        Condition("min_domains", "user", f"{active_domains} < {domains}", f"users with fewer than {domains} domains"),
        Condition(
            "min_item_interactions", "item", f"count(*) < {items}", f"items with fewer than {items} interactions"
        ),
    ]


def cut_to_k_core(engine: Engine, table: str, settings: SessionizeSettings) -> None:
    """Replace `table` by its k-core.

    Rounds alternate between users and items. The first round counts all users, the second all items. A later round
    counts only users (or items) that lost an interaction in the round before, since no other count has changed.

    Most rows go in the first rounds, so these write the table again. Later rounds remove few rows. They only record
    the removed users and items, and the table is written once at the end.
    """
    too_few = {
        key: " OR ".join(condition.too_few for condition in conditions(settings) if condition.key == key)
        for key in ("user", "item")
    }
    for key in too_few:
        engine.table(f"removed_{key}", f"SELECT {key} FROM {table} WHERE 1 = 0")
    not_removed = "ANTI JOIN removed_user USING (user) ANTI JOIN removed_item USING (item)"
    key, other, counted = "user", "item", table
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
