"""The rules by which interactions become sequences: one SQL text, which DuckDB and Spark run as it stands.

It keeps to what both understand alike: no dialect is translated into another, so a construct that one lacks is an
error and never a silent difference. Users and items are replaced by integers once. No window is over all rows, which
on a cluster would be the work of one node.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path

from tapestry.core.errors import TapestryError
from tapestry.core.splits import TEST, TRAIN, VALIDATION
from tapestry.sessionize.engine import Engine
from tapestry.sessionize.k_core import keep_core
from tapestry.sessionize.losses import Replay, Starts, why_empty, why_no_target
from tapestry.sessionize.settings import SessionizeSettings

CONTESTED = "item of another domain"
_DAY = 86_400_000  # in milliseconds

RowsByDomain = dict[str, int]


def apply_rules(
    engine: Engine, interactions: Mapping[str, Path], settings: SessionizeSettings
) -> dict[str, RowsByDomain]:
    """Tables rows (user, item, domain, timestamp, split, position), user_ids and item_ids of the Parquet files of
    `interactions`, whose order is the domains' vocabulary.

    Returns:
        {reason: {domain: rows filtered}}

    Raises:
        TapestryError: more interactions than allowed are of an item of another domain, a domain has no user left after
            filtering, or a split no target. The message has what each rule took, and the parameter of the one that
            took the most.
    """
    domains = list(interactions)
    _load(engine, interactions, settings)
    starts = _period_starts(engine, settings)
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
            _refuse_contested(before, filtered[reason], settings)
        else:
            _require_every_domain(engine, rows, settings, starts)
    _require_targets(engine, domains, settings, starts)
    return filtered


def _load(engine: Engine, interactions: Mapping[str, Path], settings: SessionizeSettings) -> None:
    parts = []
    for index, path in enumerate(interactions.values()):
        engine.view_parquet(f"interactions_{index}", path)
        parts.append(
            f"SELECT user_id, item_id, timestamp{_row(settings)}, CAST({index} AS SMALLINT) AS domain "
            f"FROM interactions_{index}"
        )
    engine.view("loaded", " UNION ALL ".join(parts))
    engine.table(
        "user_ids", f"SELECT user_id, {engine.number} AS user FROM (SELECT DISTINCT user_id FROM loaded) AS users"
    )
    if settings.item_identity == "domain":
        items = "SELECT DISTINCT item_id, domain FROM loaded"
    else:
        items = """SELECT item_id, min(domain) <> max(domain) AS contested FROM loaded GROUP BY item_id"""
    engine.table("item_ids", f"SELECT *, {engine.number} AS item FROM ({items}) AS items")
    _number_rows(engine, settings)


def _number_rows(engine: Engine, settings: SessionizeSettings) -> None:
    """Table `rows`: all that was loaded."""
    identity = "item_id, domain" if settings.item_identity == "domain" else "item_id"
    engine.table(
        "rows",
        f"""SELECT user, item, domain, timestamp{_row(settings)}
        FROM loaded JOIN user_ids USING (user_id) JOIN item_ids USING ({identity})""",
    )


def _row(settings: SessionizeSettings) -> str:
    return ", row" if settings.ties == "row" else ""  # the widest column, and of no other use


def _keep_owned_items(engine: Engine, settings: SessionizeSettings, starts: Starts) -> None:
    """An item claimed by several domains belongs to the one with most of its interactions, or the first of those.

    Under the temporal split those of the training period alone are counted, so that who owns an item doesn't depend on
    what comes later. Where all of an item's come later its owner is the first domain: the core has no place for it.
    """
    if settings.item_identity == "domain":
        return
    claim = f"sum(CASE WHEN timestamp < {starts[0]} THEN 1 ELSE 0 END)" if starts else "count(*)"
    engine.table(
        "claims",
        f"""SELECT item, domain, row_number() OVER (PARTITION BY item ORDER BY interactions DESC, domain) AS place
        FROM (
            SELECT item, domain, {claim} AS interactions
            FROM rows SEMI JOIN (SELECT item FROM item_ids WHERE contested) AS contested USING (item)
            GROUP BY item, domain
        ) AS claims""",
    )
    engine.table(
        "rows",
        "SELECT * FROM rows ANTI JOIN (SELECT item, domain FROM claims WHERE place > 1) AS lost USING (item, domain)",
    )


def _refuse_contested(loaded: RowsByDomain, lost: RowsByDomain, settings: SessionizeSettings) -> None:
    shares = {domain: lost[domain] / loaded[domain] for domain in loaded if loaded[domain]}
    if max(shares.values(), default=0.0) <= settings.max_contested_share:
        return
    by_domain = ", ".join(
        f"{domain} {lost[domain]} of {loaded[domain]} ({share:.1%})" for domain, share in shares.items()
    )
    total, whole = sum(lost.values()), sum(loaded.values())
    enough = math.ceil(1000 * max(shares.values())) / 1000
    raise TapestryError(
        f'sessionize: the rule "{CONTESTED}" would filter {total} of {whole} interactions ({total / whole:.1%}), by '
        f"domain: {by_domain}. sessionize.max_contested_share allows {settings.max_contested_share} of a domain's. "
        "With sessionize.item_identity: global an id is one item wherever it occurs, and belongs to the domain with "
        "most of its interactions. If each domain numbers its items by itself, set sessionize.item_identity to domain; "
        f"if these rows may go, raise sessionize.max_contested_share to {enough}"
    )


def _period_starts(engine: Engine, settings: SessionizeSettings) -> Starts:
    """First millisecond of the validation and of the test period (temporal split only): quantiles of the times of all
    that was loaded, before any rule, since rules look at the training period."""
    if settings.split == "leave_one_out":
        return None
    validation, test = (Fraction(str(share)) for share in (settings.validation_share, settings.test_share))
    days = engine.fetch(
        f"""SELECT day, count(*) AS interactions FROM (SELECT timestamp - timestamp % {_DAY} AS day FROM rows) AS days
        GROUP BY day ORDER BY day"""
    )
    return _quantile(engine, days, 1 - validation - test), _quantile(engine, days, 1 - test)


def _quantile(engine: Engine, days: list[tuple[int, int]], share: Fraction) -> int:
    """The least time by which `share` of the rows are over. By the day first: no more than a day's are sorted."""
    place = max(math.ceil(share * sum(interactions for _, interactions in days)), 1)
    day, place = _day_of(days, place)
    ((timestamp,),) = engine.fetch(
        f"""SELECT timestamp FROM (
            SELECT timestamp, row_number() OVER (ORDER BY timestamp) AS place FROM rows
            WHERE timestamp >= {day} AND timestamp < {day + _DAY}
        ) AS ordered WHERE place = {place}"""
    )
    return int(timestamp)


def _day_of(days: list[tuple[int, int]], place: int) -> tuple[int, int]:
    """The day of the row at `place` (from 1) in time order, and the row's place among the rows of that day."""
    for day, interactions in days:
        if place <= interactions:
            return day, place
        place -= interactions
    raise ValueError(f"place {place} is beyond the last row")


def _keep_core(engine: Engine, settings: SessionizeSettings, starts: Starts) -> None:
    """The k-core, under the temporal split of the training period, and then what its users do with its items."""
    if not starts:
        keep_core(engine, "rows", settings)
        return
    engine.table("core", f"SELECT * FROM rows WHERE timestamp < {starts[0]}")
    keep_core(engine, "core", settings)
    engine.table(
        "rows",
        """SELECT * FROM rows SEMI JOIN (SELECT DISTINCT user FROM core) AS users USING (user)
        SEMI JOIN (SELECT DISTINCT item FROM core) AS items USING (item)""",
    )


def _keep_recent(engine: Engine, domains: list[str], settings: SessionizeSettings, starts: Starts) -> None:
    """The most recent `max_length` rows of each user, with position and split. Under the temporal split those of the
    training period are counted, and all later ones stay.

    Positions are by time; ties by a hash of seed, user and item, or by the raw file's row, then the hash. Only what
    is tied is hashed and sorted again.
    """
    counted = f"sum(CASE WHEN timestamp < {starts[0]} THEN 1 ELSE 0 END)" if starts else "count(*)"
    engine.table(
        "placed",
        # tied by its neighbours: a count over the frame of equal times takes memory that cannot be spilled
        f"""SELECT *, CAST(rank() OVER by_time - 1 AS INTEGER) AS place,
            CAST({counted} OVER (PARTITION BY user) AS INTEGER) AS length,
            coalesce(timestamp = lag(timestamp) OVER by_time, false)
                OR coalesce(timestamp = lead(timestamp) OVER by_time, false) AS tied
        FROM rows WINDOW by_time AS (PARTITION BY user ORDER BY timestamp)""",
    )
    row, ties = (", row", "row, tie") if settings.ties == "row" else ("", "tie")
    engine.table(  # apart from the step after it, which together with it takes memory that cannot be spilled
        "tied",
        f"""SELECT user, item, placed.domain, timestamp{row}, place, length,
            md5(concat_ws(chr(31), '{settings.seed}', user_id, item_id{_domain_name(domains, settings)})) AS tie
        FROM placed JOIN user_ids USING (user) JOIN item_ids USING (item) WHERE tied""",
    )
    if starts:
        validation, test = (f"WHEN timestamp >= {start} THEN" for start in starts)
        split = f"CASE {test} {TEST} {validation} {VALIDATION} ELSE {TRAIN} END"
    else:
        split = f"CASE length - place WHEN 1 THEN {TEST} WHEN 2 THEN {VALIDATION} ELSE {TRAIN} END"
    engine.table(
        "rows",
        f"""SELECT user, item, domain, timestamp, CAST({split} AS TINYINT) AS split,
            CAST(place - greatest(0, length - {settings.max_length}) AS INTEGER) AS position
        FROM (
            SELECT user, item, domain, timestamp, length, place FROM placed WHERE NOT tied
            UNION ALL
            SELECT user, item, domain, timestamp, length,
                place + row_number() OVER (PARTITION BY user, timestamp ORDER BY {ties}) - 1 AS place
            FROM tied
        ) AS ordered
        WHERE place >= length - {settings.max_length}""",
    )


def _domain_name(domains: list[str], settings: SessionizeSettings) -> str:
    """The domain as part of an item's name, for the hash of ties; of two items of one id none comes first by rule."""
    if settings.item_identity == "global":
        return ""
    names = " ".join(f"WHEN {index} THEN '{domain}'" for index, domain in enumerate(domains))
    return f", CASE placed.domain {names} END"


def _require_every_domain(engine: Engine, rows: RowsByDomain, settings: SessionizeSettings, starts: Starts) -> None:
    empty = [domain for domain, count in rows.items() if count == 0]
    if empty:
        raise why_empty(_replay(engine, list(rows), settings, starts), empty)


def _require_targets(engine: Engine, domains: list[str], settings: SessionizeSettings, starts: Starts) -> None:
    present = {split for (split,) in engine.fetch("SELECT DISTINCT split FROM rows WHERE position > 0")}
    for split, name in ((VALIDATION, "validation"), (TEST, "test")):
        if split not in present:
            raise why_no_target(_replay(engine, domains, settings, starts), name)


def _replay(engine: Engine, domains: list[str], settings: SessionizeSettings, starts: Starts) -> Replay:
    _number_rows(engine, settings)
    return Replay(
        engine,
        domains,
        settings,
        starts,
        keep_owned=lambda: _keep_owned_items(engine, settings, starts),
        keep_recent=lambda: _keep_recent(engine, domains, settings, starts),
    )


def _rows_by_domain(engine: Engine, domains: list[str]) -> dict[str, int]:
    counted = dict(engine.fetch("SELECT domain, count(*) FROM rows GROUP BY domain"))
    return {domain: counted.get(index, 0) for index, domain in enumerate(domains)}
