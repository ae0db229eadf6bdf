"""What sequences are like: δ, transition entropy, ties. Each figure of one domain is of the later item's."""

from __future__ import annotations

import math
from typing import Any

import duckdb


def sequence_statistics(connection: duckdb.DuckDBPyConnection, domains: list[str]) -> dict[str, Any]:
    """Statistics of table `sequences`, whose rows are in the order of users and positions, in all and by domain.

    users, items, interactions; `delta`: δ = Σ_d n_d² / S² averaged over users (by domain: its term of the
    sum); `transition_entropy`: entropy of the next domain given this one, in nats (by domain: given that
    this one is it); `tied_pairs`: share of adjacent pairs with one timestamp; `tied_switches`: share of
    adjacent pairs of two domains with one timestamp (by domain: pairs whose later interaction is in it).
    """
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE shares AS
        SELECT *, sum(n) OVER (PARTITION BY "user") AS s
        FROM (SELECT "user", domain, count(*) AS n FROM sequences GROUP BY "user", domain)"""
    )
    connection.execute("CREATE OR REPLACE TEMP TABLE sold AS SELECT DISTINCT domain, item FROM sequences")
    items = _grouped(connection, "SELECT domain, count(DISTINCT item) FROM sold")
    users = _grouped(connection, 'SELECT domain, count(DISTINCT "user") FROM shares')
    interactions = _grouped(connection, "SELECT domain, sum(n)::BIGINT FROM shares")
    delta = _grouped(connection, 'SELECT domain, sum((n / s) ** 2 ORDER BY "user", domain) FROM shares')
    pairs = connection.execute(
        """SELECT previous, domain, count(*), count(*) FILTER (tied) FROM (
            SELECT domain, lag(domain) OVER () AS previous, "user" = lag("user") OVER () AS same_user,
                timestamp = lag(timestamp) OVER () AS tied
            FROM sequences)
        WHERE same_user GROUP BY previous, domain ORDER BY previous, domain"""
    ).fetchall()
    result: dict[int | None, dict[str, Any]] = {}
    for key in [None, *range(len(domains))]:
        into = [row for row in pairs if key is None or row[1] == key]
        switches = [row for row in into if row[0] != row[1]]
        result[key] = {
            "users": users[key],
            "items": items[key],
            "interactions": interactions[key],
            "delta": delta[key] / users[None],
            "transition_entropy": _conditional_entropy([row for row in pairs if key is None or row[0] == key]),
            "tied_pairs": _tied_share(into),
            "tied_switches": _tied_share(switches),
        }
    return {"all": result[None], "domain": {name: result[index] for index, name in enumerate(domains)}}


def _grouped(connection: duckdb.DuckDBPyConnection, query: str) -> dict[int | None, Any]:
    """A figure by domain, and in all (None)."""
    return dict(connection.execute(f"{query} GROUP BY GROUPING SETS ((domain), ())").fetchall())


def _conditional_entropy(pairs: list[tuple[int, int, int, int]]) -> float:
    """H(next domain | this domain) in nats; 0 for no pairs."""
    total = sum(count for _, _, count, _ in pairs)
    leaving: dict[int, int] = {}
    for previous, _, count, _ in pairs:
        leaving[previous] = leaving.get(previous, 0) + count
    return sum(count / total * math.log(leaving[previous] / count) for previous, _, count, _ in pairs)


def _tied_share(pairs: list[tuple[int, int, int, int]]) -> float:
    total = sum(count for _, _, count, _ in pairs)
    return sum(tied for _, _, _, tied in pairs) / total if total else 0.0
