"""Interactions of all domains → per-user, domain-tagged, time-ordered sequences with a split.

The folder holds
    sequences.parquet  user, position, item (int32), domain (int16), timestamp (int64, ms), split (int8:
                       0 training, 1 validation, 2 test); one row an interaction, ordered by user, position
    users.parquet      user, user_id, offset (of its first row in sequences.parquet), length
    items.parquet      item, item_id, domain, train_count (training interactions); ids contiguous by domain
    domains.json       [{"name", "start", "end"}]: a domain's items are the slice [start, end)

Rules, in order. An item claimed by several domains belongs to the one with most of its interactions (the
first listed, if equal); the others' rows are filtered. Where each domain numbers its own items
(`item_identity: domain`) the id and the domain name an item, and none is claimed twice. Then the iterated
k-core: users with enough interactions and domains, items with enough interactions, until nothing changes.
Then the most recent `max_length` of each user.

Leave-one-out filters on all interactions, as the literature does. The temporal split filters on the training
period alone: owners, the core and `max_length` are of its interactions, so that no later one decides which of
them are kept. Of later interactions it keeps what the core's users do with its items. The periods begin at
quantiles of the times of all interactions, also of those that a rule filters then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from tapestry.core.atomic import atomic_folder, write_json
from tapestry.core.errors import TapestryError
from tapestry.core.splits import TRAIN
from tapestry.sessionize.engine import DuckDBEngine, Engine
from tapestry.sessionize.rules import CONTESTED, apply_rules
from tapestry.sessionize.schema import check_sequences
from tapestry.sessionize.settings import SessionizeSettings
from tapestry.sessionize.statistics import sequence_statistics
from tapestry.tables.database import connect, quote, write_parquet


@dataclass(frozen=True)
class DomainInput:
    """What ingest made of one domain."""

    interactions: Path
    counts: Path


def sessionize(inputs: Mapping[str, DomainInput], settings: SessionizeSettings, folder: Path) -> dict[str, Any]:
    """Write the sequences of the domains `inputs` (in vocabulary order) to `folder`.

    Returns:
        The contents of metrics/data.json: row accounting and sequence statistics, in all and by domain.

    Raises:
        TapestryError: more interactions than `max_contested_share` are of another domain's items, a domain has no
            user left after filtering, or a split no target.
    """
    domains = list(inputs)
    interactions = {domain: source.interactions for domain, source in inputs.items()}
    with connect(settings.memory_limit, settings.threads) as connection, atomic_folder(folder) as temporary:
        with _engine(settings, connection, folder) as engine:
            filtered = apply_rules(engine, interactions, settings)
            for name, query in _KEPT.items():
                engine.hand_over(name, query)
            _number(connection)
            _write(connection, domains, temporary)
        check_sequences(connection, len(domains), settings.item_identity)
        return _account(inputs, filtered, sequence_statistics(connection, domains))


def contested_interactions(metrics: dict[str, Any]) -> str | None:
    """A line for the console on the interactions filtered as of another domain's items; None if there are none."""
    lost = {domain: row["filtered"][CONTESTED] for domain, row in metrics["domain"].items()}
    usable = sum(
        row["rows_in"] - row["rows_quarantined"] - row["filtered"]["duplicate"] for row in metrics["domain"].values()
    )
    if not (total := sum(lost.values())):
        return None
    by_domain = ", ".join(f"{domain} {rows}" for domain, rows in lost.items() if rows)
    return (
        f"{CONTESTED}: {total} of {usable} interactions filtered ({total / usable:.2%}; {by_domain}); if each domain "
        "numbers its items by itself, set sessionize.item_identity to domain"
    )


_KEPT = {
    "kept": "SELECT * FROM rows",
    "kept_users": """SELECT user, user_id, length
        FROM (SELECT user, count(*) AS length FROM rows GROUP BY user) AS users JOIN user_ids USING (user)""",
    "kept_items": f"""SELECT item, item_id, items.domain, train_count
        FROM (
            SELECT item, domain, count(*) FILTER (WHERE split = {TRAIN}) AS train_count FROM rows GROUP BY item, domain
        ) AS items JOIN item_ids USING (item)""",
}


@contextmanager
def _engine(settings: SessionizeSettings, connection: duckdb.DuckDBPyConnection, folder: Path) -> Iterator[Engine]:
    if settings.engine == "duckdb":
        yield DuckDBEngine(connection)
        return
    from tapestry.sessionize.spark import spark_engine  # an optional extra

    with spark_engine(connection, folder, settings) as engine:
        yield engine


def _number(connection: duckdb.DuckDBPyConnection) -> None:
    """Tables `numbered_users` and `numbered_items`: contiguous ids from 0, in the order of the texts."""
    connection.execute(
        """CREATE TABLE numbered_items AS
        SELECT *, (row_number() OVER (ORDER BY domain, item_id) - 1)::INTEGER AS number FROM kept_items"""
    )
    connection.execute(
        """CREATE TABLE numbered_users AS
        SELECT "user", user_id, length::INTEGER AS length, (row_number() OVER in_order - 1)::INTEGER AS number,
            (sum(length) OVER in_order - length)::BIGINT AS "offset"
        FROM kept_users WINDOW in_order AS (ORDER BY user_id)"""
    )


def _write(connection: duckdb.DuckDBPyConnection, domains: list[str], folder: Path) -> None:
    """The files, and views `sequences`, `users` and `items` of them."""
    connection.execute(  # apart from sorting, which together with the joins takes memory that cannot be spilled
        """CREATE TABLE numbered AS
        SELECT u.number AS "user", r.position, i.number AS item, r.domain, r.timestamp, r.split
        FROM kept r JOIN numbered_users u USING ("user") JOIN numbered_items i USING (item)"""
    )
    queries = {
        "sequences": """FROM numbered ORDER BY "user", position""",
        "users": """
            SELECT number AS "user", user_id, "offset", length FROM numbered_users ORDER BY number""",
        "items": """
            SELECT number AS item, item_id, domain, train_count FROM numbered_items ORDER BY number""",
    }
    for name, query in queries.items():
        path = folder / f"{name}.parquet"
        write_parquet(connection, query, path)
        connection.execute(f"CREATE VIEW {name} AS FROM read_parquet('{quote(path)}')")
    slices = connection.execute(
        "SELECT domain, min(item), max(item) + 1 FROM items GROUP BY domain ORDER BY domain"
    ).fetchall()
    write_json(
        folder / "domains.json",
        [{"name": domains[domain], "start": start, "end": end} for domain, start, end in slices],
    )


def _account(
    inputs: Mapping[str, DomainInput],
    filtered: dict[str, dict[str, int]],
    statistics: dict[str, Any],
) -> dict[str, Any]:
    """Row accounting beside the statistics; rows in must be rows kept + quarantined + filtered."""
    rows: dict[str, dict[str, Any]] = {}
    for domain, source in inputs.items():
        counts = json.loads(source.counts.read_text(encoding="utf-8"))
        reasons = {"duplicate": counts["rows_duplicate"]} | {why: lost[domain] for why, lost in filtered.items()}
        rows[domain] = {
            "rows_in": counts["rows_in"],
            "rows_kept": statistics["domain"][domain]["interactions"],
            "rows_quarantined": counts["rows_quarantined"],
            "rows_filtered": sum(reasons.values()),
            "quarantined": counts["reasons"],
            "filtered": reasons,
        }
        row = rows[domain]
        parts = row["rows_kept"] + row["rows_quarantined"] + row["rows_filtered"]
        if row["rows_in"] != parts:
            raise TapestryError(
                f"{domain}: {row['rows_in']} rows in, but {parts} kept, quarantined or filtered; "
                f"{source.interactions} and {source.counts} are not of one run: repeat ingest"
            )
    total = {
        key: sum(row[key] for row in rows.values())
        for key in ("rows_in", "rows_kept", "rows_quarantined", "rows_filtered")
    }
    return {
        "all": total | statistics["all"],
        "domain": {domain: rows[domain] | statistics["domain"][domain] for domain in inputs},
    }
