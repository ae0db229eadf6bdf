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

from tapestry.config import SessionizeConfig
from tapestry.data.engine import Engine
from tapestry.errors import TapestryError

_DAY = 86_400_000  # in milliseconds
_ROUNDS_WRITTEN = 3  # of the k-core

Losses = dict[str, int]


def apply_rules(engine: Engine, interactions: Mapping[str, Path], config: SessionizeConfig) -> dict[str, Losses]:
    """Tables rows (user, item, domain, timestamp, split, position), user_ids and item_ids of the Parquet files of
    `interactions`, whose order is the domains' vocabulary.

    Returns:
        {reason: {domain: rows filtered}}

    Raises:
        TapestryError: a domain has no user left after filtering, or a split no target.
    """
    domains = list(interactions)
    _load(engine, interactions, config)
    filtered = {"item of another domain": _lost(engine, domains, _keep_owned_items)}
    starts = _period_starts(engine, config)
    filtered["too few interactions or domains"] = _lost(
        engine, domains, lambda engine: _keep_core(engine, config, starts)
    )
    _require_every_domain(engine, domains)
    filtered["older than max_length"] = _lost(engine, domains, lambda engine: _keep_recent(engine, config, starts))
    _require_every_domain(engine, domains)
    _require_targets(engine)
    return filtered


def _load(engine: Engine, interactions: Mapping[str, Path], config: SessionizeConfig) -> None:
    row = ", row" if config.ties == "row" else ""  # the widest column, and of no other use
    parts = []
    for index, path in enumerate(interactions.values()):
        engine.view_parquet(f"interactions_{index}", path)
        parts.append(
            f"SELECT user_id, item_id, timestamp{row}, CAST({index} AS SMALLINT) AS domain FROM interactions_{index}"
        )
    engine.view("loaded", " UNION ALL ".join(parts))
    engine.table(
        "user_ids", f"SELECT user_id, {engine.number} AS user FROM (SELECT DISTINCT user_id FROM loaded) AS users"
    )
    engine.table(
        "item_ids",
        f"""SELECT item_id, {engine.number} AS item, first_domain <> last_domain AS contested
        FROM (
            SELECT item_id, min(domain) AS first_domain, max(domain) AS last_domain FROM loaded GROUP BY item_id
        ) AS items""",
    )
    engine.table(
        "rows",
        f"""SELECT user, item, domain, timestamp{row}
        FROM loaded JOIN user_ids USING (user_id) JOIN item_ids USING (item_id)""",
    )


def _keep_owned_items(engine: Engine) -> None:
    """An item claimed by several domains belongs to the one with most of its interactions, or the first of those."""
    engine.table(
        "claims",
        """SELECT item, domain, row_number() OVER (PARTITION BY item ORDER BY interactions DESC, domain) AS place
        FROM (
            SELECT item, domain, count(*) AS interactions
            FROM rows SEMI JOIN (SELECT item FROM item_ids WHERE contested) AS contested USING (item)
            GROUP BY item, domain
        ) AS claims""",
    )
    engine.table(
        "rows",
        "SELECT * FROM rows ANTI JOIN (SELECT item, domain FROM claims WHERE place > 1) AS lost USING (item, domain)",
    )


def _period_starts(engine: Engine, config: SessionizeConfig) -> tuple[int, int] | None:
    """First millisecond of the validation and of the test period (temporal split only): quantiles of the times."""
    if config.split == "leave_one_out":
        return None
    validation, test = (Fraction(str(share)) for share in (config.validation_share, config.test_share))
    days = engine.fetch(
        f"""SELECT day, count(*) AS interactions FROM (SELECT timestamp - timestamp % {_DAY} AS day FROM rows) AS days
        GROUP BY day ORDER BY day"""
    )
    return _quantile(engine, days, 1 - validation - test), _quantile(engine, days, 1 - test)


def _quantile(engine: Engine, days: list[tuple[int, int]], share: Fraction) -> int:
    """The least time by which `share` of the rows are over. By the day first: no more than a day's are sorted."""
    place = max(math.ceil(share * sum(interactions for _, interactions in days)), 1)
    for day, interactions in days:  # noqa: B007
        if place <= interactions:
            break
        place -= interactions
    ((timestamp,),) = engine.fetch(
        f"""SELECT timestamp FROM (
            SELECT timestamp, row_number() OVER (ORDER BY timestamp) AS place FROM rows
            WHERE timestamp >= {day} AND timestamp < {day + _DAY}
        ) AS ordered WHERE place = {place}"""
    )
    return int(timestamp)


def _keep_core(engine: Engine, config: SessionizeConfig, starts: tuple[int, int] | None) -> None:
    """The iterated k-core. After the first round only who lost an interaction in the last one is counted again.

    The first rounds, in which most leave, write the rows anew; the later ones only note who leaves, until the end.
    """
    core = "rows"
    if starts:
        core = "core"
        engine.table(core, f"SELECT * FROM rows WHERE timestamp < {starts[0]}")
    too_few = {
        "user": f"""count(*) < {config.min_user_interactions}
            OR bit_count(bit_or(CAST(1 AS BIGINT) << domain)) < {config.min_domains}""",
        "item": f"count(*) < {config.min_item_interactions}",
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
    if starts:
        engine.table(
            "rows",
            """SELECT * FROM rows SEMI JOIN (SELECT DISTINCT user FROM core) AS users USING (user)
            SEMI JOIN (SELECT DISTINCT item FROM core) AS items USING (item)""",
        )


def _keep_recent(engine: Engine, config: SessionizeConfig, starts: tuple[int, int] | None) -> None:
    """The most recent `max_length` rows of each user, with position and split.

    Positions are by time; ties by a hash of seed, user and item, or by the raw file's row, then the hash. Only what
    is tied is hashed and sorted again.
    """
    engine.table(
        "placed",
        # tied by its neighbours: a count over the frame of equal times takes memory that cannot be spilled
        """SELECT *, CAST(rank() OVER by_time - 1 AS INTEGER) AS place,
            CAST(count(*) OVER (PARTITION BY user) AS INTEGER) AS length,
            coalesce(timestamp = lag(timestamp) OVER by_time, false)
                OR coalesce(timestamp = lead(timestamp) OVER by_time, false) AS tied
        FROM rows WINDOW by_time AS (PARTITION BY user ORDER BY timestamp)""",
    )
    row, ties = (", row", "row, tie") if config.ties == "row" else ("", "tie")
    engine.table(  # apart from the step after it, which together with it takes memory that cannot be spilled
        "tied",
        f"""SELECT user, item, domain, timestamp{row}, place, length,
            md5(concat_ws(chr(31), '{config.seed}', user_id, item_id)) AS tie
        FROM placed JOIN user_ids USING (user) JOIN item_ids USING (item) WHERE tied""",
    )
    if starts:
        split = f"CASE WHEN timestamp >= {starts[1]} THEN 2 WHEN timestamp >= {starts[0]} THEN 1 ELSE 0 END"
    else:
        split = "greatest(0, place + 3 - length)"
    engine.table(
        "rows",
        f"""SELECT user, item, domain, timestamp, CAST({split} AS TINYINT) AS split,
            CAST(place - greatest(0, length - {config.max_length}) AS INTEGER) AS position
        FROM (
            SELECT user, item, domain, timestamp, length, place FROM placed WHERE NOT tied
            UNION ALL
            SELECT user, item, domain, timestamp, length,
                place + row_number() OVER (PARTITION BY user, timestamp ORDER BY {ties}) - 1 AS place
            FROM tied
        ) AS ordered
        WHERE place >= length - {config.max_length}""",
    )


def _require_targets(engine: Engine) -> None:
    rows = dict(engine.fetch("SELECT split, count(*) FROM rows WHERE position > 0 GROUP BY split"))
    for split, name in ((1, "validation"), (2, "test")):
        if split not in rows:
            raise TapestryError(
                f"sessionize: no {name} interaction is left with a history before it; lower "
                f"sessionize.min_user_interactions or raise sessionize.{name}_share"
            )


def _require_every_domain(engine: Engine, domains: list[str]) -> None:
    empty = [domain for domain, rows in _rows_by_domain(engine, domains).items() if rows == 0]
    if empty:
        raise TapestryError(
            f"sessionize: no user is left in {', '.join(empty)} after filtering; lower "
            "sessionize.min_user_interactions, min_item_interactions or min_domains, or leave the domain "
            "out of source.domains"
        )


def _lost(engine: Engine, domains: list[str], rule: Callable[[Engine], None]) -> Losses:
    """Apply a rule; return how many rows each domain lost by it."""
    before = _rows_by_domain(engine, domains)
    rule(engine)
    after = _rows_by_domain(engine, domains)
    return {domain: before[domain] - after[domain] for domain in domains}


def _rows_by_domain(engine: Engine, domains: list[str]) -> dict[str, int]:
    counted = dict(engine.fetch("SELECT domain, count(*) FROM rows GROUP BY domain"))
    return {domain: counted.get(index, 0) for index, domain in enumerate(domains)}
