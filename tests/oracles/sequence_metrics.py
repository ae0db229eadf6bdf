"""The metrics that sessionize must return: row accounting and statistics of sequences, counted in plain Python."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from typing import Any

import pytest
from interactions import DOMAINS, Interaction


def item_of(i: Interaction) -> tuple[int, str]:
    """The identity of an item, once every item belongs to one domain."""
    return i.domain, i.item


def expected_metrics(
    interactions: list[Interaction],
    timelines: list[list[Interaction]],
    filtered_by_reason: dict[str, list[int]],
    domains: int,
) -> dict[str, Any]:
    accounts: list[dict[str, Any]] = []
    for d in range(domains):
        filtered = {"duplicate": 2 * d} | {reason: by_domain[d] for reason, by_domain in filtered_by_reason.items()}
        accounts.append(
            {
                "rows_in": sum(i.domain == d for i in interactions) + 3 * d,
                "rows_kept": sum(i.domain == d for timeline in timelines for i in timeline),
                "rows_quarantined": d,
                "rows_filtered": sum(filtered.values()),
                "quarantined": {"missing user": d},
                "filtered": filtered,
            }
        )
    names = ("rows_in", "rows_kept", "rows_quarantined", "rows_filtered")
    total = {name: sum(account[name] for account in accounts) for name in names}
    assert total["rows_in"] == sum(total[name] for name in names[1:])
    return {
        "all": total | figures(timelines, None),
        "domain": {DOMAINS[d]: account | figures(timelines, d) for d, account in enumerate(accounts)},
        "transitions": {
            row: {
                column: sum(
                    (DOMAINS[a.domain], DOMAINS[b.domain]) == (row, column)
                    for timeline in timelines
                    for a, b in itertools.pairwise(timeline)
                )
                for column in DOMAINS[:domains]
            }
            for row in DOMAINS[:domains]
        },
        "lengths": length_classes([len(timeline) for timeline in timelines]),
    }


def length_classes(lengths: list[int]) -> list[dict[str, int]]:
    """How many users have a length of each class; for sequences of fewer than 128 interactions."""
    assert max(lengths) < 128
    classes = [(1, 1), (2, 2), (3, 4), (5, 7), (8, 11), (12, 15), (16, 23), (24, 31), (32, 47)]
    classes += [(48, 63), (64, 95), (96, 127)]
    counted = [(first, last, sum(first <= length <= last for length in lengths)) for first, last in classes]
    return [{"from": first, "to": last, "users": users} for first, last, users in counted if users]


def figures(timelines: list[list[Interaction]], domain: int | None) -> dict[str, Any]:
    """The statistics of all domains, or of one."""
    mine = [[i for i in timeline if domain in (None, i.domain)] for timeline in timelines]
    pairs = [pair for timeline in timelines for pair in itertools.pairwise(timeline)]
    into = [pair for pair in pairs if domain in (None, pair[1].domain)]
    switches = [pair for pair in into if pair[0].domain != pair[1].domain]
    leaving = [pair for pair in pairs if domain in (None, pair[0].domain)]
    transitions = Counter((a.domain, b.domain) for a, b in leaving)
    sources = Counter(a.domain for a, _ in leaving)
    shares = [
        sum(
            (count / len(timeline)) ** 2
            for d, count in Counter(i.domain for i in timeline).items()
            if domain in (None, d)
        )
        for timeline in timelines
    ]
    return {
        "users": sum(bool(timeline) for timeline in mine),
        "items": len({item_of(i) for timeline in mine for i in timeline}),
        "interactions": sum(map(len, mine)),
        "delta": pytest.approx(statistics.fmean(shares)),
        "transition_entropy": pytest.approx(
            -sum(count / len(leaving) * math.log(count / sources[a]) for (a, _), count in transitions.items())
        ),
        "tied_pairs": pytest.approx(sum(a.day == b.day for a, b in into) / max(len(into), 1)),
        "tied_switches": pytest.approx(sum(a.day == b.day for a, b in switches) / max(len(switches), 1)),
    }
