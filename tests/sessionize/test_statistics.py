"""Statistics of sequences against figures calculated by hand."""

from __future__ import annotations

import math
from typing import Any

import duckdb
import pytest

from tapestry.sessionize.statistics import sequence_statistics

Interaction = tuple[int, int, int]  # item, domain, timestamp


def statistics(users: list[list[Interaction]], domains: int) -> dict[str, Any]:
    rows = [(user, position, *step) for user, steps in enumerate(users) for position, step in enumerate(steps)]
    with duckdb.connect() as connection:
        connection.execute(
            """CREATE TABLE sequences
            ("user" INTEGER, position INTEGER, item INTEGER, domain SMALLINT, timestamp BIGINT)"""
        )
        connection.executemany("INSERT INTO sequences VALUES (?, ?, ?, ?, ?)", rows)
        connection.execute(
            """CREATE TABLE users AS SELECT "user", count(*)::INTEGER AS length FROM sequences GROUP BY "user";
            CREATE TABLE items AS SELECT DISTINCT item, domain FROM sequences"""
        )
        return sequence_statistics(connection, [f"d{domain}" for domain in range(domains)])


def test_statistics_equal_a_calculation_by_hand() -> None:
    found = statistics(
        [
            [(0, 0, 1), (1, 0, 1), (5, 1, 2)],  # pairs: 0 → 0 tied, 0 → 1
            [(5, 1, 5), (0, 0, 5), (2, 0, 5), (6, 1, 6)],  # pairs: 1 → 0 tied, 0 → 0 tied, 0 → 1
        ],
        domains=2,
    )
    expected = {
        "all": {
            "users": 2,
            "items": 5,
            "interactions": 7,
            "delta": ((4 + 1) / 9 + (4 + 4) / 16) / 2,
            "transition_entropy": 4 / 5 * math.log(2),
            "tied_pairs": 3 / 5,
            "tied_switches": 1 / 3,
        },
        "d0": {
            "users": 2,
            "items": 3,
            "interactions": 4,
            "delta": (4 / 9 + 4 / 16) / 2,
            "transition_entropy": math.log(2),
            "tied_pairs": 1.0,
            "tied_switches": 1.0,
        },
        "d1": {
            "users": 2,
            "items": 2,
            "interactions": 3,
            "delta": (1 / 9 + 4 / 16) / 2,
            "transition_entropy": 0.0,
            "tied_pairs": 0.0,
            "tied_switches": 0.0,
        },
    }
    assert found["all"] == pytest.approx(expected["all"])
    assert found["domain"] == {domain: pytest.approx(expected[domain]) for domain in ("d0", "d1")}
    assert found["transitions"] == {"d0": {"d0": 2, "d1": 2}, "d1": {"d0": 1, "d1": 0}}
    assert found["lengths"] == [{"from": 3, "to": 4, "users": 2}]


def test_classes_of_lengths_hold_every_user_once_and_the_last_one_ends_at_the_longest() -> None:
    lengths = [1, 1, 2, 4, 5, 7, 2000]
    users = [[(0, 0, time) for time in range(length)] for length in lengths]
    assert statistics(users, domains=1)["lengths"] == [
        {"from": 1, "to": 1, "users": 2},
        {"from": 2, "to": 2, "users": 1},
        {"from": 3, "to": 4, "users": 1},
        {"from": 5, "to": 7, "users": 2},
        {"from": 1024, "to": 2000, "users": 1},
    ]


def test_delta_is_smallest_for_users_who_spread_evenly_and_1_for_users_of_one_domain() -> None:
    even = [[(domain, domain, domain) for domain in range(4)]]
    assert statistics(even, domains=4)["all"]["delta"] == pytest.approx(1 / 4)
    single = [[(domain, domain, time) for time in range(3)] for domain in range(4)]
    assert statistics(single, domains=4)["all"]["delta"] == pytest.approx(1)


def test_entropy_is_0_if_the_next_domain_is_certain_and_log_2_if_two_are_equally_likely() -> None:
    cycle = [[(time % 3, time % 3, time) for time in range(31)]]
    assert statistics(cycle, domains=3)["all"]["transition_entropy"] == 0
    both_ways = [[(0, 0, 0), (a, a, 1)] for a in range(2)] + [[(1, 1, 0), (a, a, 1)] for a in range(2)]
    assert statistics(both_ways, domains=2)["all"]["transition_entropy"] == pytest.approx(math.log(2))


def test_users_with_one_interaction_have_no_pairs_and_every_share_is_0() -> None:
    found = statistics([[(0, 0, 1)], [(1, 1, 1)]], domains=2)
    for figures in (found["all"], *found["domain"].values()):
        assert figures["transition_entropy"] == figures["tied_pairs"] == figures["tied_switches"] == 0
