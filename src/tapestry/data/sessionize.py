"""Interactions of all domains → per-user, domain-tagged, time-ordered sequences with a split.

The folder holds
    sequences.parquet  user, position, item (int32), domain (int16), timestamp (int64, ms), split (int8:
                       0 training, 1 validation, 2 test); one row an interaction, ordered by user, position
    users.parquet      user, user_id, offset (of its first row in sequences.parquet), length
    items.parquet      item, item_id, domain, train_count (training interactions); ids contiguous by domain
    domains.json       [{"name", "start", "end"}]: a domain's items are the slice [start, end)

Rules, in order. An item claimed by several domains belongs to the one with most of its interactions (the
first listed, if equal); the others' rows are filtered. Then the iterated k-core: users with enough
interactions and domains, items with enough interactions, until nothing changes. Leave-one-out filters on
all interactions, as the literature does; the temporal split filters on the training period alone and later
keeps what its users do with its items. Then the most recent `max_length` of each user.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from tapestry.atomic import atomic_folder, write_json
from tapestry.config import SessionizeConfig
from tapestry.data.database import connect, quote, scalar, write_parquet
from tapestry.data.schemas import check_sequences
from tapestry.data.statistics import sequence_statistics
from tapestry.errors import TapestryError


@dataclass(frozen=True)
class DomainInput:
    """What ingest made of one domain."""

    interactions: Path
    counts: Path


def sessionize(inputs: Mapping[str, DomainInput], config: SessionizeConfig, folder: Path) -> dict[str, Any]:
    """Write the sequences of the domains `inputs` (in vocabulary order) to `folder`.

    Returns:
        The contents of metrics/data.json: row accounting and sequence statistics, in all and by domain.

    Raises:
        TapestryError: a domain has no user left after filtering, or a split no target.
    """
    domains = list(inputs)
    with connect(config.memory_limit, config.threads) as connection, atomic_folder(folder) as temporary:
        _load(connection, inputs)
        filtered = {"item of another domain": _keep_owned_items(connection, domains)}
        boundaries = _boundaries(connection, config)
        filtered["too few interactions or domains"] = _keep_core(connection, config, boundaries, domains)
        _require_every_domain(connection, domains)
        filtered["older than max_length"] = _keep_recent(connection, config, boundaries, domains)
        _require_every_domain(connection, domains)
        _require_targets(connection)
        _number(connection)
        _write(connection, domains, temporary)
        check_sequences(connection, len(domains))
        return _account(inputs, filtered, sequence_statistics(connection, domains))


def _load(connection: duckdb.DuckDBPyConnection, inputs: Mapping[str, DomainInput]) -> None:
    """Table `rows` with users and items as integers; `user_ids` and `item_ids` hold the text, once."""
    union = " UNION ALL ".join(
        f"SELECT user_id, item_id, timestamp, row, {index}::SMALLINT AS domain "
        f"FROM read_parquet('{quote(source.interactions)}')"
        for index, source in enumerate(inputs.values())
    )
    connection.execute(f"CREATE VIEW loaded AS {union}")
    for name in ("user", "item"):
        connection.execute(
            f"""CREATE TABLE {name}_ids AS
            SELECT {name}_id, row_number() OVER (ORDER BY {name}_id) AS "{name}"
            FROM (SELECT DISTINCT {name}_id FROM loaded)"""
        )
    connection.execute(
        """CREATE TABLE rows AS SELECT "user", item, domain, timestamp, row
        FROM loaded JOIN user_ids USING (user_id) JOIN item_ids USING (item_id)"""
    )


def _keep_owned_items(connection: duckdb.DuckDBPyConnection, domains: list[str]) -> dict[str, int]:
    return _keep(
        connection,
        domains,
        """SELECT rows.* FROM rows SEMI JOIN (
            SELECT item, domain FROM rows GROUP BY item, domain
            QUALIFY row_number() OVER (PARTITION BY item ORDER BY count(*) DESC, domain) = 1
        ) USING (item, domain)""",
    )


def _boundaries(connection: duckdb.DuckDBPyConnection, config: SessionizeConfig) -> tuple[int, int] | None:
    """First millisecond of the validation and of the test period (temporal split only)."""
    if config.split == "leave_one_out":
        return None
    trained, known = 1 - config.validation_share - config.test_share, 1 - config.test_share
    row = connection.execute(
        f"SELECT quantile_disc(timestamp, {trained}), quantile_disc(timestamp, {known}) FROM rows"
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def _keep_core(
    connection: duckdb.DuckDBPyConnection,
    config: SessionizeConfig,
    boundaries: tuple[int, int] | None,
    domains: list[str],
) -> dict[str, int]:
    period = f"WHERE timestamp < {boundaries[0]}" if boundaries else ""
    connection.execute(f'CREATE TABLE core AS SELECT "user", item, domain FROM rows {period}')
    too_few = {
        "user": f"""count(*) < {config.min_user_interactions}
            OR bit_count(bit_or(1::BIGINT << domain)) < {config.min_domains}""",
        "item": f"count(*) < {config.min_item_interactions}",
    }
    unchanged = 0
    while unchanged < len(too_few):
        for key, condition in too_few.items():
            connection.execute(
                f'CREATE OR REPLACE TABLE leaving AS SELECT "{key}" FROM core GROUP BY "{key}" HAVING {condition}'
            )
            unchanged += 1
            if scalar(connection, "SELECT count(*) FROM leaving") > 0:
                connection.execute(
                    f'CREATE OR REPLACE TABLE core AS SELECT core.* FROM core ANTI JOIN leaving USING ("{key}")'
                )
                unchanged = 0
    return _keep(
        connection,
        domains,
        """SELECT rows.* FROM rows SEMI JOIN (SELECT DISTINCT "user" FROM core) USING ("user")
            SEMI JOIN (SELECT DISTINCT item FROM core) USING (item)""",
    )


def _keep_recent(
    connection: duckdb.DuckDBPyConnection,
    config: SessionizeConfig,
    boundaries: tuple[int, int] | None,
    domains: list[str],
) -> dict[str, int]:
    """Rows with their position, of the most recent of each user, and their split.

    Positions are by time; ties by a hash of seed, user and item, or by the raw file's row, then the hash.
    """
    tie = f"md5(concat_ws(chr(31), '{config.seed}', user_id, item_id))"
    ties = f"row, {tie}" if config.ties == "row" else tie
    if boundaries:
        split = f"CASE WHEN timestamp >= {boundaries[1]} THEN 2 WHEN timestamp >= {boundaries[0]} THEN 1 ELSE 0 END"
    else:
        split = "greatest(0, place + 3 - length)"
    return _keep(
        connection,
        domains,
        f"""SELECT "user", item, domain, timestamp, ({split})::TINYINT AS split,
            (place - greatest(0, length - {config.max_length}))::INTEGER AS position
        FROM (
            SELECT r."user", r.item, domain, timestamp, count(*) OVER (PARTITION BY r."user") AS length,
                row_number() OVER (PARTITION BY r."user" ORDER BY timestamp, {ties}, r.item) - 1 AS place
            FROM rows r JOIN user_ids u USING ("user") JOIN item_ids i USING (item))
        WHERE place >= length - {config.max_length}""",
    )


def _require_targets(connection: duckdb.DuckDBPyConnection) -> None:
    for split, name in ((1, "validation"), (2, "test")):
        if scalar(connection, f"SELECT count(*) FROM rows WHERE split = {split} AND position > 0") == 0:
            raise TapestryError(
                f"sessionize: no {name} interaction is left with a history before it; lower "
                f"sessionize.min_user_interactions or raise sessionize.{name}_share"
            )


def _number(connection: duckdb.DuckDBPyConnection) -> None:
    """Tables `numbered_users` and `numbered_items`: contiguous ids from 0, in the order of the texts."""
    connection.execute(
        """CREATE TABLE numbered_items AS
        SELECT item, (row_number() OVER (ORDER BY domain, item) - 1)::INTEGER AS number, domain, train_count
        FROM (SELECT item, domain, count(*) FILTER (split = 0) AS train_count FROM rows GROUP BY item, domain)"""
    )
    connection.execute(
        """CREATE TABLE numbered_users AS
        SELECT "user", (row_number() OVER (ORDER BY "user") - 1)::INTEGER AS number,
            (sum(length) OVER (ORDER BY "user") - length)::BIGINT AS "offset", length::INTEGER AS length
        FROM (SELECT "user", count(*) AS length FROM rows GROUP BY "user")"""
    )


def _write(connection: duckdb.DuckDBPyConnection, domains: list[str], folder: Path) -> None:
    """The files, and views `sequences`, `users` and `items` of them."""
    queries = {
        "sequences": """
            SELECT u.number AS "user", r.position, i.number AS item, r.domain, r.timestamp, r.split
            FROM rows r JOIN numbered_users u USING ("user") JOIN numbered_items i USING (item)
            ORDER BY u.number, r.position""",
        "users": """
            SELECT number AS "user", user_id, "offset", length
            FROM numbered_users JOIN user_ids USING ("user") ORDER BY number""",
        "items": """
            SELECT number AS item, item_id, domain, train_count
            FROM numbered_items JOIN item_ids USING (item) ORDER BY number""",
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


def _keep(connection: duckdb.DuckDBPyConnection, domains: list[str], query: str) -> dict[str, int]:
    """Replace `rows` by the query's; return how many rows each domain lost."""
    before = _rows_by_domain(connection, domains)
    connection.execute(f"CREATE OR REPLACE TABLE rows AS {query}")
    after = _rows_by_domain(connection, domains)
    return {domain: before[domain] - after[domain] for domain in domains}


def _rows_by_domain(connection: duckdb.DuckDBPyConnection, domains: list[str]) -> dict[str, int]:
    counted = dict(connection.execute("SELECT domain, count(*) FROM rows GROUP BY domain").fetchall())
    return {domain: counted.get(index, 0) for index, domain in enumerate(domains)}


def _require_every_domain(connection: duckdb.DuckDBPyConnection, domains: list[str]) -> None:
    empty = [domain for domain, rows in _rows_by_domain(connection, domains).items() if rows == 0]
    if empty:
        raise TapestryError(
            f"sessionize: no user is left in {', '.join(empty)} after filtering; lower "
            "sessionize.min_user_interactions, min_item_interactions or min_domains, or leave the domain "
            "out of source.domains"
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
