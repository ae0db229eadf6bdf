"""Turn the interactions of all domains into one time-ordered sequence per user, with a split.

No sessions are cut: one sequence a user.

Files that `sessionize` writes:
    sequences.parquet  one row per interaction, sorted by user and position. Columns: user, position, item (int32),
                       domain (int16), timestamp (int64, ms), split (int8: 0 training, 1 validation, 2 test)
    users.parquet      one row per user: user (int32, from 0), user_id (text of the raw file), offset (row of the
                       user's first interaction in sequences.parquet), length (number of interactions)
    items.parquet      one row per item: item (int32, from 0; those of a domain are consecutive), item_id (text of the
                       raw file), domain, train_count (number of training interactions)
    domains.json       [{"name", "start", "end"}]: the items of a domain are those from start to end - 1

The path of a user's id:
    data/interactions/<domain>.parquet  column user_id, as in the raw file
    table user_ids (rules.py)           user_id → user, an integer of this run
    users.parquet                       user_id → user, the row number in the order of user_id
    Sequences.user_id (sequences)       array: user → user_id
    metrics/ranks.parquet (evaluation)  column user_id, again as in the raw file

Rules, in this order:
    1. Owner. If several domains have interactions of an item, the domain with the most of them owns it (the first in
       the list, if equal). Interactions of the item in other domains are filtered. With `item_identity: domain`,
       item_id and domain together name an item, so every item has one domain and this rule filters nothing. With
       `contested_items: drop`, all interactions of an item of several domains are filtered.
    2. k-core. Remove users with too few interactions or domains, then items with too few interactions, and repeat
       until nothing changes. A domain counts if the user has `min_user_domain_interactions` interactions there. With
       `k_core: once`: remove users with too few domains, then items, then users with too few interactions in all or
       in a domain, without repeating.
    3. Length. Keep the most recent `max_length` interactions of each user. With `truncate: before` this rule comes
       before the k-core, or with `k_core: once` between items and the users' interactions.

Leave-one-out applies the rules to all interactions, as the literature does. The temporal split applies them to the
training period only, so that no later interaction decides which training interactions are kept. Of the later
interactions it keeps those of a user and an item of the k-core. The periods begin at quantiles of the timestamps of
all interactions, before any rule. A given split is taken from the raw files; the rules apply to all interactions, so a
published set that is to stay as it is needs bounds that filter nothing.
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
from tapestry.sessionize.owners import CONTESTED, RowsByDomain
from tapestry.sessionize.rules import apply_rules
from tapestry.sessionize.schema import check_sequences
from tapestry.sessionize.settings import SessionizeSettings
from tapestry.sessionize.statistics import sequence_statistics
from tapestry.tables.database import connect, quote, write_parquet


@dataclass(frozen=True)
class DomainInput:
    """The files that ingest wrote for one domain."""

    interactions: Path
    """Parquet: user_id, item_id, timestamp (ms), row, …"""
    counts: Path
    """JSON: the number of rows read, quarantined and dropped as duplicates."""


def sessionize(inputs: Mapping[str, DomainInput], settings: SessionizeSettings, folder: Path) -> dict[str, Any]:
    """Write the sequences of the domains `inputs` to `folder`, atomically.

    Args:
        inputs: The files of each domain. Their order is the order of the domain numbers.

    Returns:
        The contents of metrics/data.json: row accounting and sequence statistics, of all domains and of each.

    Raises:
        TapestryError: `min_domains` is above the number of domains; in a domain, more than `max_contested_share` of
            the interactions are of items that another domain owns; or after filtering a domain has no user, or a split
            no target.
    """
    domains = list(inputs)
    settings.require_domains(len(domains))
    interactions = {domain: source.interactions for domain, source in inputs.items()}
    with connect(settings.memory_limit, settings.threads) as connection, atomic_folder(folder) as temporary:
        with _engine(settings, connection, folder) as engine:
            filtered = apply_rules(engine, interactions, settings)
            for name, query in _EXPORTS.items():
                engine.export_to_duckdb(name, query)
            _assign_ids(connection)
            _write_files(connection, domains, temporary)
        check_sequences(connection, len(domains), settings)
        return _with_row_counts(inputs, filtered, sequence_statistics(connection, domains))


def contested_interactions(metrics: dict[str, Any]) -> str | None:
    """Return a line for the console about interactions of items that another domain owns; None if there are none."""
    filtered = {domain: row["filtered"][CONTESTED] for domain, row in metrics["domain"].items()}
    usable = sum(
        row["rows_in"] - row["rows_quarantined"] - row["filtered"]["duplicate"] for row in metrics["domain"].values()
    )
    if not (total := sum(filtered.values())):
        return None
    by_domain = ", ".join(f"{domain} {rows}" for domain, rows in filtered.items() if rows)
    return (
        f"{CONTESTED}: {total} of {usable} interactions filtered ({total / usable:.2%}; {by_domain}); if each domain "
        "numbers its own items, set sessionize.item_identity to domain"
    )


# From the engine's tables to DuckDB. Here each integer of a user or item gets its text again.
_EXPORTS = {
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


def _assign_ids(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the tables `numbered_users` and `numbered_items`, with consecutive numbers from 0 (`number`).

    Users are in the order of user_id, items in the order of domain and item_id. These numbers depend on the
    data only, unlike the integers of `user_ids` and `item_ids`, which may differ from run to run.
    """
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


def _write_files(connection: duckdb.DuckDBPyConnection, domains: list[str], folder: Path) -> None:
    """Write the files, and create the views `sequences`, `users` and `items` of them."""
    connection.execute(  # a step of its own: joined and sorted at once, it needs memory that DuckDB can't spill
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
        connection.execute(f"CREATE VIEW {name} AS FROM read_parquet('{quote(path)}', file_row_number = true)")
    slices = connection.execute(
        "SELECT domain, min(item), max(item) + 1 FROM items GROUP BY domain ORDER BY domain"
    ).fetchall()
    write_json(
        folder / "domains.json",
        [{"name": domains[domain], "start": start, "end": end} for domain, start, end in slices],
    )


def _with_row_counts(
    inputs: Mapping[str, DomainInput],
    filtered: dict[str, RowsByDomain],
    statistics: dict[str, Any],
) -> dict[str, Any]:
    """Add row counts to the statistics, and check that rows in = rows kept + rows quarantined + rows filtered."""
    accounts: dict[str, dict[str, Any]] = {}
    for domain, source in inputs.items():
        counts = json.loads(source.counts.read_text(encoding="utf-8"))
        reasons = {"duplicate": counts["rows_duplicate"]} | {reason: rows[domain] for reason, rows in filtered.items()}
        accounts[domain] = {
            "rows_in": counts["rows_in"],
            "rows_kept": statistics["domain"][domain]["interactions"],
            "rows_quarantined": counts["rows_quarantined"],
            "rows_filtered": sum(reasons.values()),
            "quarantined": counts["reasons"],
            "filtered": reasons,
        }
        account = accounts[domain]
        parts = account["rows_kept"] + account["rows_quarantined"] + account["rows_filtered"]
        if account["rows_in"] != parts:
            raise TapestryError(
                f"{domain}: {account['rows_in']} rows in, but {parts} kept, quarantined or filtered; "
                f"{source.interactions} and {source.counts} are from different runs of ingest: run ingest again"
            )
    total = {
        key: sum(account[key] for account in accounts.values())
        for key in ("rows_in", "rows_kept", "rows_quarantined", "rows_filtered")
    }
    return statistics | {
        "all": total | statistics["all"],
        "domain": {domain: accounts[domain] | statistics["domain"][domain] for domain in inputs},
    }
