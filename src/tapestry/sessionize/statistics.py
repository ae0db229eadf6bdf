"""Statistics of the sequences: counts, δ (how unevenly users spread over domains), transition entropy and ties.

A pair is two adjacent interactions of one user. In the statistics of one domain, a pair counts for the domain of its
later interaction, unless the text says otherwise.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import duckdb

from tapestry.tables.database import scalar

_LENGTHS = (1, 2, 3, 5, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)  # first length of each class


def sequence_statistics(connection: duckdb.DuckDBPyConnection, domains: list[str]) -> dict[str, Any]:
    """Return the statistics: {"all": {...}, "domain": {name: {...}}, "transitions": {...}, "lengths": [...]}.

    Reads the tables `sequences` (rows sorted by user and position), `users` and `items`. `transitions` counts pairs:
    {domain: {domain of the next interaction: pairs}}. `lengths` counts users by length of their sequence, in classes:
    [{"from", "to", "users"}]. The statistics under `all`, and under `domain` those of each:

    users, items, interactions: counts.
    delta: δ = Σ_d n_d² / S², averaged over users. A user has S interactions, n_d of them in domain d. δ is 1 if all
        users are active in one domain only, and 1 / D if they spread evenly over D domains. Of one domain: the
        average of its term n_d² / S².
    transition_entropy: conditional entropy of the next interaction's domain, given this one's, in nats. Of one domain:
        the entropy of the next domain after an interaction in it.
    tied_pairs: share of pairs whose two timestamps are equal.
    tied_switches: share of pairs with equal timestamps among the pairs of two different domains.
    """
    users = scalar(connection, "SELECT count(*) FROM users")
    items = dict(connection.execute("SELECT domain, count(*) FROM items GROUP BY domain").fetchall())
    of_domains = ", ".join(f"count(*) FILTER (domain = {domain})" for domain in range(len(domains)))
    shares = connection.execute(  # grouped by the user alone: rows are sorted by it, so that takes half the time
        f"""SELECT domain, n, length, count(*) FROM (
            SELECT count(*) AS length, unnest([{of_domains}]) AS n, unnest(range({len(domains)})) AS domain
            FROM sequences GROUP BY "user")
        WHERE n > 0 GROUP BY domain, n, length ORDER BY domain, n, length"""
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
        selected_shares = [row for row in shares if key is None or row[0] == key]
        pairs_into = [row for row in pairs if key is None or row[1] == key]
        switches = [row for row in pairs_into if row[0] != row[1]]
        result[key] = {
            "users": users if key is None else sum(count for *_, count in selected_shares),
            "items": sum(items.values()) if key is None else items[key],
            "interactions": sum(n * count for _, n, _, count in selected_shares),
            "delta": math.fsum(count * (n / length) ** 2 for _, n, length, count in selected_shares) / users,
            "transition_entropy": _conditional_entropy([row for row in pairs if key is None or row[0] == key]),
            "tied_pairs": _tied_share(pairs_into),
            "tied_switches": _tied_share(switches),
        }
    count = {(previous, following): pairs_of for previous, following, pairs_of, _ in pairs}
    return {
        "all": result[None],
        "domain": {name: result[index] for index, name in enumerate(domains)},
        "transitions": {
            name: {following: count.get((row, column), 0) for column, following in enumerate(domains)}
            for row, name in enumerate(domains)
        },
        "lengths": _length_classes(connection),
    }


def _length_classes(connection: duckdb.DuckDBPyConnection) -> list[dict[str, int]]:
    """Count users by the length of their sequence; a class ends before the next number of `_LENGTHS`."""
    lengths = connection.execute("SELECT length, count(*) FROM users GROUP BY length ORDER BY length").fetchall()
    classes: list[dict[str, int]] = []
    for first, following in pairwise([*_LENGTHS, math.inf]):
        inside = [(length, users) for length, users in lengths if first <= length < following]
        if inside:
            last = max(length for length, _ in inside) if following == math.inf else int(following) - 1
            classes.append({"from": int(first), "to": last, "users": sum(users for _, users in inside)})
    return classes


def _conditional_entropy(pairs: list[tuple[int, int, int, int]]) -> float:
    """Return H(next domain | this domain) in nats; 0 without pairs."""
    total = sum(count for _, _, count, _ in pairs)
    from_domain: dict[int, int] = {}
    for previous, _, count, _ in pairs:
        from_domain[previous] = from_domain.get(previous, 0) + count
    return sum(count / total * math.log(from_domain[previous] / count) for previous, _, count, _ in pairs)


def _tied_share(pairs: list[tuple[int, int, int, int]]) -> float:
    total = sum(count for _, _, count, _ in pairs)
    return sum(tied for _, _, _, tied in pairs) / total if total else 0.0
