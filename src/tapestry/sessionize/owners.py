"""The first filter rule: an item that several domains have belongs to one of them, or is dropped."""

from __future__ import annotations

import math

from tapestry.core.errors import TapestryError
from tapestry.sessionize.engine import Engine
from tapestry.sessionize.periods import PeriodStarts
from tapestry.sessionize.settings import SessionizeSettings

CONTESTED = "item of another domain"
"""Reason for filtering: the item has interactions in several domains, and another domain owns it, or none does."""

RowsByDomain = dict[str, int]


def keep_owned_items(engine: Engine, settings: SessionizeSettings, starts: PeriodStarts) -> None:
    """Filter the interactions of an item in domains that don't own it, and create the table `owners`.

    The owner is the domain with the most interactions of the item. If several have equally many, it is the first of
    them. With `contested_items: drop` an item with interactions in several domains has no owner. The temporal split
    counts the training period only, so that later interactions don't change the owner. An item without training
    interactions belongs to its first domain. The k-core filters it anyway.
    """
    if settings.item_identity == "domain":
        return
    counted = f"sum(CASE WHEN timestamp < {starts[0]} THEN 1 ELSE 0 END)" if starts else "count(*)"
    engine.table(
        "owners",
        f"""SELECT item, domain, row_number() OVER (PARTITION BY item ORDER BY interactions DESC, domain) AS preference,
            sum(CASE WHEN interactions > 0 THEN 1 ELSE 0 END) OVER (PARTITION BY item) AS claimants, loaded
        FROM (
            SELECT item, domain, {counted} AS interactions, count(*) AS loaded
            FROM loaded JOIN (SELECT item_id, item FROM item_ids WHERE contested) AS contested USING (item_id)
            GROUP BY item, domain
        ) AS counts""",
    )
    engine.table(
        "rows",
        f"""SELECT * FROM rows ANTI JOIN (
            SELECT item, domain FROM owners WHERE {_not_owned(settings)}
        ) AS others USING (item, domain)""",
    )


def contested_rows(engine: Engine, domains: list[str], settings: SessionizeSettings) -> RowsByDomain:
    """Count the loaded interactions that `keep_owned_items` filters, those of users without a place in `rows` too."""
    if settings.item_identity == "domain":
        return dict.fromkeys(domains, 0)
    counted = dict(
        engine.fetch(
            f"SELECT domain, CAST(sum(loaded) AS BIGINT) FROM owners WHERE {_not_owned(settings)} GROUP BY domain"
        )
    )
    return {domain: counted.get(index, 0) for index, domain in enumerate(domains)}


def _not_owned(settings: SessionizeSettings) -> str:
    """SQL: whether the interactions of a row of `owners` are filtered."""
    return "preference > 1" + (" OR claimants > 1" if settings.contested_items == "drop" else "")


def require_few_contested(loaded: RowsByDomain, filtered: RowsByDomain, settings: SessionizeSettings) -> None:
    """Check `max_contested_share`.

    Args:
        loaded, filtered: all interactions of each domain, and those that `keep_owned_items` filtered.

    Raises:
        TapestryError: a larger share was filtered of a domain.
    """
    shares = {domain: filtered[domain] / loaded[domain] for domain in loaded if loaded[domain]}
    if max(shares.values(), default=0.0) <= settings.max_contested_share:
        return
    by_domain = ", ".join(
        f"{domain} {filtered[domain]} of {loaded[domain]} ({share:.1%})" for domain, share in shares.items()
    )
    total, total_loaded = sum(filtered.values()), sum(loaded.values())
    sufficient_share = math.ceil(1000 * max(shares.values())) / 1000
    raise TapestryError(
        f'sessionize: the rule "{CONTESTED}" would filter {total} of {total_loaded} interactions '
        f"({total / total_loaded:.1%}), by domain: {by_domain}. sessionize.max_contested_share allows "
        f"{settings.max_contested_share} of a domain's. With sessionize.item_identity: global an item_id names the "
        f"same item in all domains, and {_WHOSE[settings.contested_items]}. If each domain numbers its "
        "own items, set sessionize.item_identity to domain; to filter them all the same, raise "
        f"sessionize.max_contested_share to {sufficient_share}"
    )


_WHOSE = {
    "owner": "belongs to the domain with most of its interactions",
    "drop": "with sessionize.contested_items: drop an item of several domains is dropped",
}
