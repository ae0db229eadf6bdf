"""The iterated k-core: users with enough interactions and domains, items with enough interactions."""

from __future__ import annotations

from typing import NamedTuple

from tapestry.sessionize.engine import Engine
from tapestry.sessionize.settings import SessionizeSettings

_ROUNDS_WRITTEN = 3


class Condition(NamedTuple):
    """By which users or items leave the core."""

    parameter: str  # of sessionize, that holds the bound
    key: str  # user | item
    too_few: str  # SQL, of the rows of one user or item
    told: str


def conditions(settings: SessionizeSettings) -> list[Condition]:
    def few(what: str, bound: int, of: str) -> str:
        return f"{what} of fewer than {bound} {of}"

    users, items, domains = settings.min_user_interactions, settings.min_item_interactions, settings.min_domains
    active_in = "bit_count(bit_or(CAST(1 AS BIGINT) << domain))"
    return [
        Condition("min_user_interactions", "user", f"count(*) < {users}", few("users", users, "interactions")),
        Condition("min_domains", "user", f"{active_in} < {domains}", few("users", domains, "domains")),
        Condition("min_item_interactions", "item", f"count(*) < {items}", few("items", items, "interactions")),
    ]


def keep_core(engine: Engine, core: str, settings: SessionizeSettings) -> None:
    """Cut the table `core` to its k-core. After the first round only who lost an interaction in the last one is
    counted again.

    The first rounds, in which most leave, write the rows anew; the later ones only note who leaves, until the end.
    """
    too_few = {
        key: " OR ".join(condition.too_few for condition in conditions(settings) if condition.key == key)
        for key in ("user", "item")
    }
    for key in too_few:
        engine.table(f"left_{key}", f"SELECT {key} FROM {core} WHERE 1 = 0")
    staying = "ANTI JOIN left_user USING (user) ANTI JOIN left_item USING (item)"
    key, other, counted = "user", "item", core
    done = 0
    while True:
        engine.table("leaving", f"SELECT {key} FROM {counted} GROUP BY {key} HAVING {too_few[key]}")
        ((leaving,),) = engine.fetch("SELECT count(*) FROM leaving")
        if leaving == 0 and done > 0:
            break
        if done > 0:
            engine.table("touched", f"SELECT DISTINCT {other} FROM {core} SEMI JOIN leaving USING ({key}) {staying}")
        if done < _ROUNDS_WRITTEN:
            engine.table(core, f"SELECT * FROM {core} ANTI JOIN leaving USING ({key})")
        else:
            engine.table(f"left_{key}", f"SELECT {key} FROM left_{key} UNION ALL SELECT {key} FROM leaving")
        key, other = other, key
        counted = f"{core} SEMI JOIN touched USING ({key}) {staying}" if done > 0 else core
        done += 1
    engine.table(core, f"SELECT * FROM {core} {staying}")
