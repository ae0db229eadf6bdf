"""What sequences are like: δ, transition entropy, ties. Each figure of one domain is of the later item's."""

from __future__ import annotations

import math
from typing import Any

import duckdb


def sequence_statistics(connection: duckdb.DuckDBPyConnection, domains: list[str]) -> dict[str, Any]:
    """Statistics of tables `sequences`, whose rows are in the order of users and positions, `users` and `items`, in
    all and by domain.

    users, items, interactions; `delta`: δ = Σ_d n_d² / S² averaged over users (by domain: its term of the
    sum); `transition_entropy`: entropy of the next domain given this one, in nats (by domain: given that
    this one is it); `tied_pairs`: share of adjacent pairs with one timestamp; `tied_switches`: share of
    adjacent pairs of two domains with one timestamp (by domain: pairs whose later interaction is in it).
    """
    (users,) = connection.execute("SELECT count(*) FROM users").fetchone() or (0,)
    items = dict(connection.execute("SELECT domain, count(*) FROM items GROUP BY domain").fetchall())
    shares = connection.execute(
        """SELECT domain, n, length, count(*)
        FROM (SELECT "user", domain, count(*) AS n FROM sequences GROUP BY "user", domain) JOIN users USING ("user")
        GROUP BY domain, n, length ORDER BY domain, n, length"""
    ).fetchall()
    pairs = connection.execute(
        """SELECT previous, domain, count(*), count(*) FILTER (tied) FROM (
            SELECT domain, lag(domain) OVER () AS previous, "user" = lag("user") OVER () AS same_user,
                timestamp = lag(timestamp) OVER () AS tied
            FROM sequences)
        WHERE same_user GROUP BY previous, domain ORDER BY previous, domain"""
    ).fetchall()
    result: dict[int | None, dict[str, Any]] = {}
    for key in [None, *range(len(domains))]:
        of_users = [row for row in shares if key is None or row[0] == key]
        into = [row for row in pairs if key is None or row[1] == key]
        switches = [row for row in into if row[0] != row[1]]
        result[key] = {
            "users": users if key is None else sum(count for *_, count in of_users),
            "items": sum(items.values()) if key is None else items[key],
            "interactions": sum(n * count for _, n, _, count in of_users),
            "delta": math.fsum(count * (n / length) ** 2 for _, n, length, count in of_users) / users,
            "transition_entropy": _conditional_entropy([row for row in pairs if key is None or row[0] == key]),
            "tied_pairs": _tied_share(into),
            "tied_switches": _tied_share(switches),
        }
    return {"all": result[None], "domain": {name: result[index] for index, name in enumerate(domains)}}


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
