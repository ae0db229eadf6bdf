"""Counts of recent interactions against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import random_sequences, recent_count

from tapestry.core.splits import TRAIN
from tapestry.sequences.recent import RecentCounts, log_of_aged_counts, log_of_counts

DAY_MS = 86_400_000
LATEST = 2**62

interactions = st.lists(st.tuples(st.integers(0, 5), st.integers(-DAY_MS, 120 * DAY_MS)), max_size=40)
times = st.lists(st.one_of(st.integers(-DAY_MS, 130 * DAY_MS), st.just(LATEST)), min_size=1, max_size=8)


def naive(known: list[tuple[int, int]], item: int, time: int) -> int:
    """The interactions with an item in the 30 days before the day of a time."""
    last = max((day_of(at) for _, at in known), default=0)
    day = min(day_of(time), last + 1)
    return sum(of == item and day - 30 <= day_of(at) <= day - 1 for of, at in known)


def day_of(time: int) -> int:
    """Days since 1970; what is before 1970 is on its first day."""
    return max(time // DAY_MS, 0)


def counts_of(known: list[tuple[int, int]]) -> RecentCounts:
    item, timestamp = np.array(known, dtype=np.int64).reshape(-1, 2).T
    return RecentCounts(item.astype(np.int32), timestamp, 6)


@settings(max_examples=200, deadline=None)
@given(known=interactions, asked=times, items=st.lists(st.integers(0, 5), unique=True))
def test_counts_equal_plain_loops(known: list[tuple[int, int]], asked: list[int], items: list[int]) -> None:
    recent, chosen = counts_of(known), np.array(sorted(items), dtype=np.int64)
    time_R = np.array(asked)
    day_P, count_PC, row_R = recent.at(time_R, chosen)
    after = max((day_of(at) for _, at in known), default=0) + 1
    assert day_P[row_R].tolist() == [min(day_of(time), after) for time in asked]
    assert count_PC[row_R].tolist() == [[naive(known, item, time) for item in chosen.tolist()] for time in asked]
    for item in range(6):
        pairs = recent.of_pairs(time_R, np.full(len(asked), item))
        assert pairs.tolist() == [naive(known, item, time) for time in asked]


@settings(max_examples=50, deadline=None)
@given(known=interactions)
def test_the_latest_counts_are_those_after_all_interactions(known: list[tuple[int, int]]) -> None:
    recent = counts_of(known)
    latest = recent.latest()
    assert latest.tolist() == [naive(known, item, LATEST) for item in range(6)]
    kept = RecentCounts.as_of_one_day(latest, recent.last_day)
    for time in (0, LATEST):
        day_P, count_PC, _ = kept.at(np.array([time]), np.arange(6))
        assert (day_P.tolist(), count_PC.tolist()) == ([recent.last_day + 1], [latest.tolist()])


def test_training_counts_leave_out_what_is_held_out() -> None:
    sequences = random_sequences(3, users=30, items=9)
    time = 20 * DAY_MS
    for item in range(9):
        asked = np.array([item])
        assert sequences.known_counts.of_pairs(np.array([time]), asked).tolist() == [
            recent_count(sequences, item, time)
        ]
        assert sequences.training_counts.of_pairs(np.array([time]), asked).tolist() == [
            recent_count(sequences, item, time, (TRAIN,))
        ]


def test_a_count_adds_its_logarithm_times_the_weight() -> None:
    count = np.array([[0, 1], [7, 0]])
    added = log_of_counts(count, 0.07)
    assert added.dtype == np.float32
    expected = [[0, 0.07 * math.log(2)], [0.07 * math.log(8), 0]]
    np.testing.assert_array_equal(added, np.array(expected, dtype=np.float32))


def test_the_weight_doubles_with_every_30_days_of_the_models_age_up_to_1() -> None:
    age_P = np.array([-400, 0, 1, 30, 45, 60, 119, 10_000])
    count_PC = np.array([[0, 1, 6]] * len(age_P))
    weights = [0.07, 0.07, 0.07 * 2 ** (1 / 30), 0.14, 0.07 * 2**1.5, 0.28, 1.0, 1.0]
    found = log_of_aged_counts(count_PC, 0.07, age_P)
    assert found.dtype == np.float32
    for row, weight in zip(found.tolist(), weights, strict=True):
        assert row == pytest.approx([0, weight * math.log(2), weight * math.log(7)], rel=1e-6)
    np.testing.assert_array_equal(found[1], log_of_counts(count_PC[1], 0.07))
