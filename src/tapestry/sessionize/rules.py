"""The filter rules that turn interactions into sequences: one SQL text, which DuckDB and Spark run unchanged.

The SQL uses only constructs that both engines have, with the same meaning in both. Nothing is translated between SQL
dialects, so a construct that one engine lacks is an error and never a silent difference.

The user_id and item_id texts are replaced by integers at the start, because the rules join and group by them many
times. No window function runs over all rows: on a Spark cluster a single node would have to do that work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from tapestry.core.errors import TapestryError
from tapestry.core.splits import TEST, TRAIN, VALIDATION
from tapestry.sessionize.diagnosis import UnfilteredRows, empty_domains_error, missing_target_error
from tapestry.sessionize.engine import Engine
from tapestry.sessionize.k_core import cut_to_k_core
from tapestry.sessionize.periods import PeriodStarts, period_starts
from tapestry.sessionize.settings import SessionizeSettings

CONTESTED = "item of another domain"
"""Reason for filtering: the item has interactions in several domains, and another domain owns it."""

RowsByDomain = dict[str, int]


def apply_rules(
    engine: Engine, interactions: Mapping[str, Path], settings: SessionizeSettings
) -> dict[str, RowsByDomain]:
    """Filter, order and split the interactions; `tapestry.sessionize.sessionize` describes the rules.

    Creates the tables `rows` (user, item, domain, timestamp, split, position), `user_ids` (user_id, user) and
    `item_ids` (item_id, item). The column `user` is an integer that stands for a user_id within this run only:
    `user_ids` translates it back.

    Args:
        interactions: The Parquet file of each domain. Their order is the order of the domain numbers.

    Returns:
        {reason: {domain: interactions filtered}}

    Raises:
        TapestryError: Too many interactions are of items that another domain owns; or after filtering a domain has no
            user, or a split no target. The message lists what each rule filtered and names the parameter to change.
    """
    domains = list(interactions)
    _load(engine, interactions, settings)
    starts = period_starts(engine, settings)
    rules: dict[str, Callable[[], None]] = {
        CONTESTED: lambda: _keep_owned_items(engine, settings, starts),
        "too few interactions or domains": lambda: _keep_core(engine, settings, starts),
        "older than max_length": lambda: _keep_recent(engine, domains, settings, starts),
    }
    rows = _rows_by_domain(engine, domains)
    filtered = {}
    for reason, apply_rule in rules.items():
        before = rows
        apply_rule()
        rows = _rows_by_domain(engine, domains)
        filtered[reason] = {domain: before[domain] - rows[domain] for domain in domains}
        if reason == CONTESTED:
            _require_few_contested(before, filtered[reason], settings)
        else:
            _require_every_domain(engine, rows, settings, starts)
    _require_targets(engine, domains, settings, starts)
    return filtered


def _load(engine: Engine, interactions: Mapping[str, Path], settings: SessionizeSettings) -> None:
    """Create the view `loaded` of all files, and the tables `user_ids`, `item_ids` and `rows`.

    Every user_id gets its integer here. `rows` and all tables after it have the integer only.
    """
    parts = []
    for index, path in enumerate(interactions.values()):
        engine.view_parquet(f"interactions_{index}", path)
        parts.append(
            f"SELECT user_id, item_id, timestamp{_row_column(settings)}, CAST({index} AS SMALLINT) AS domain "
            f"FROM interactions_{index}"
        )
    engine.view("loaded", " UNION ALL ".join(parts))
    engine.table(
        "user_ids",
        f"SELECT user_id, {engine.unique_integer} AS user FROM (SELECT DISTINCT user_id FROM loaded) AS users",
    )
    if settings.item_identity == "domain":
        items = "SELECT DISTINCT item_id, domain FROM loaded"
    else:
        items = "SELECT item_id, min(domain) <> max(domain) AS contested FROM loaded GROUP BY item_id"
    engine.table("item_ids", f"SELECT *, {engine.unique_integer} AS item FROM ({items}) AS items")
    _create_rows(engine, settings)


def _create_rows(engine: Engine, settings: SessionizeSettings) -> None:
    """Create the table `rows` of all loaded interactions, with integers for users and items."""
    identity = "item_id, domain" if settings.item_identity == "domain" else "item_id"
    engine.table(
        "rows",
        f"""SELECT user, item, domain, timestamp{_row_column(settings)}
        FROM loaded JOIN user_ids USING (user_id) JOIN item_ids USING ({identity})""",
    )


def _row_column(settings: SessionizeSettings) -> str:
    return ", row" if settings.ties == "row" else ""  # wide, and used only to order ties


def _keep_owned_items(engine: Engine, settings: SessionizeSettings, starts: PeriodStarts) -> None:
    """Filter the interactions of an item in domains that don't own it.

    The owner is the domain with the most interactions of the item. If several have equally many, it is the first of
    them. The temporal split counts the training period only, so that later interactions don't change the owner. An
    item without training interactions belongs to its first domain. The k-core filters it anyway.
    """
    if settings.item_identity == "domain":
        return
    counted = f"sum(CASE WHEN timestamp < {starts[0]} THEN 1 ELSE 0 END)" if starts else "count(*)"
    engine.table(
        "owners",
        f"""SELECT item, domain, row_number() OVER (PARTITION BY item ORDER BY interactions DESC, domain) AS preference
        FROM (
            SELECT item, domain, {counted} AS interactions
            FROM rows SEMI JOIN (SELECT item FROM item_ids WHERE contested) AS contested USING (item)
            GROUP BY item, domain
        ) AS counts""",
    )
    engine.table(
        "rows",
        """SELECT * FROM rows
        ANTI JOIN (SELECT item, domain FROM owners WHERE preference > 1) AS others USING (item, domain)""",
    )


def _require_few_contested(loaded: RowsByDomain, filtered: RowsByDomain, settings: SessionizeSettings) -> None:
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
        "same item in all domains, and belongs to the domain with most of its interactions. If each domain numbers its "
        "own items, set sessionize.item_identity to domain; to filter them all the same, raise "
        f"sessionize.max_contested_share to {sufficient_share}"
    )


def _keep_core(engine: Engine, settings: SessionizeSettings, starts: PeriodStarts) -> None:
    """Cut `rows` to the k-core.

    The temporal split takes the k-core of the training period (table `core`). Of later interactions it keeps those of
    a user and an item of the core.
    """
    if not starts:
        cut_to_k_core(engine, "rows", settings)
        return
    engine.table("core", f"SELECT * FROM rows WHERE timestamp < {starts[0]}")
    cut_to_k_core(engine, "core", settings)
    engine.table(
        "rows",
        """SELECT * FROM rows SEMI JOIN (SELECT DISTINCT user FROM core) AS users USING (user)
        SEMI JOIN (SELECT DISTINCT item FROM core) AS items USING (item)""",
    )


def _keep_recent(engine: Engine, domains: list[str], settings: SessionizeSettings, starts: PeriodStarts) -> None:
    """Keep the most recent `max_length` interactions of each user, and give each its position and split.

    The temporal split counts the training period only, and keeps all later interactions.

    Positions follow the timestamps. Interactions of a user with one timestamp are tied. Ties are ordered by a hash of
    seed, user_id and item_id, or by the row of the raw file and then the hash. Only tied rows are hashed and sorted
    again.

    Example: timestamps 10, 20, 20, 30 have `time_rank` 0, 1, 1, 3. The hash orders the two tied rows: 0, 1, 2, 3.
    """
    counted = f"sum(CASE WHEN timestamp < {starts[0]} THEN 1 ELSE 0 END)" if starts else "count(*)"
    engine.table(
        "ranked",
        # lag and lead find ties: a count over the rows of equal timestamps needs memory that DuckDB can't spill
        f"""SELECT *, CAST(rank() OVER by_time - 1 AS INTEGER) AS time_rank,
            CAST({counted} OVER (PARTITION BY user) AS INTEGER) AS length,
            coalesce(timestamp = lag(timestamp) OVER by_time, false)
                OR coalesce(timestamp = lead(timestamp) OVER by_time, false) AS in_tie
        FROM rows WINDOW by_time AS (PARTITION BY user ORDER BY timestamp)""",
    )
    row, tie_order = (", row", "row, tie_hash") if settings.ties == "row" else ("", "tie_hash")
    engine.table(  # a step of its own: joined with the next one it needs memory that DuckDB can't spill
        "tied",
        f"""SELECT user, item, ranked.domain, timestamp{row}, time_rank, length,
            md5(concat_ws(chr(31), '{settings.seed}', user_id, item_id{_domain_name(domains, settings)})) AS tie_hash
        FROM ranked JOIN user_ids USING (user) JOIN item_ids USING (item) WHERE in_tie""",
    )
    if starts:
        validation, test = (f"WHEN timestamp >= {start} THEN" for start in starts)
        split = f"CASE {test} {TEST} {validation} {VALIDATION} ELSE {TRAIN} END"
    else:
        split = f"CASE length - time_rank WHEN 1 THEN {TEST} WHEN 2 THEN {VALIDATION} ELSE {TRAIN} END"
    engine.table(
        "rows",
        f"""SELECT user, item, domain, timestamp, CAST({split} AS TINYINT) AS split,
            CAST(time_rank - greatest(0, length - {settings.max_length}) AS INTEGER) AS position
        FROM (
            SELECT user, item, domain, timestamp, length, time_rank FROM ranked WHERE NOT in_tie
            UNION ALL
            SELECT user, item, domain, timestamp, length,
                time_rank + row_number() OVER (PARTITION BY user, timestamp ORDER BY {tie_order}) - 1 AS time_rank
            FROM tied
        ) AS ordered
        WHERE time_rank >= length - {settings.max_length}""",
    )


def _domain_name(domains: list[str], settings: SessionizeSettings) -> str:
    """SQL for the domain's name as part of the tie hash, where an item is named by its item_id and its domain.

    Without it, two tied items with one item_id in two domains would have the same hash, and no defined order.
    """
    if settings.item_identity == "global":
        return ""
    names = " ".join(f"WHEN {index} THEN '{domain}'" for index, domain in enumerate(domains))
    return f", CASE ranked.domain {names} END"


def _require_every_domain(
    engine: Engine, rows: RowsByDomain, settings: SessionizeSettings, starts: PeriodStarts
) -> None:
    empty = [domain for domain, count in rows.items() if count == 0]
    if empty:
        raise empty_domains_error(_load_again(engine, list(rows), settings, starts), empty)


def _require_targets(engine: Engine, domains: list[str], settings: SessionizeSettings, starts: PeriodStarts) -> None:
    present = {split for (split,) in engine.fetch("SELECT DISTINCT split FROM rows WHERE position > 0")}
    for split, name in ((VALIDATION, "validation"), (TEST, "test")):
        if split not in present:
            raise missing_target_error(_load_again(engine, domains, settings, starts), name)


def _load_again(
    engine: Engine, domains: list[str], settings: SessionizeSettings, starts: PeriodStarts
) -> UnfilteredRows:
    """Restore the table `rows` to all loaded interactions, to find out what each rule filters."""
    _create_rows(engine, settings)
    return UnfilteredRows(
        engine,
        domains,
        settings,
        starts,
        keep_owned_items=lambda: _keep_owned_items(engine, settings, starts),
        keep_recent=lambda: _keep_recent(engine, domains, settings, starts),
    )


def _rows_by_domain(engine: Engine, domains: list[str]) -> RowsByDomain:
    counted = dict(engine.fetch("SELECT domain, count(*) FROM rows GROUP BY domain"))
    return {domain: counted.get(index, 0) for index, domain in enumerate(domains)}
