"""Ranks by popularity and by item-kNN, compared with plain loops."""

from __future__ import annotations

import math
from fractions import Fraction
from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.ranking import naive_rank
from small import random_sequences, recent_count

from tapestry.baselines import baselines
from tapestry.baselines.baselines import ItemKnn, Popularity, RecentCounted, RecentPopularity
from tapestry.baselines.interface import Baseline
from tapestry.baselines.ranks import rank_baseline
from tapestry.baselines.settings import BaselineSettings, PeerSettings
from tapestry.core.splits import TEST
from tapestry.evaluation.ranking import Ranks
from tapestry.sequences import cooccurrence
from tapestry.sequences.reader import Sequences

DAY = 86_400_000


def ranked(
    baseline: Baseline, sequences: Sequences, exclude_seen: bool, batch_users: int, neighbours: int = 1
) -> Ranks:
    chosen = BaselineSettings(exclude_seen, batch_users, neighbours, 1, PeerSettings())
    return rank_baseline("tried", baseline, sequences, sequences.targets(TEST), chosen)


def users_of_items(sequences: Sequences) -> list[set[int]]:
    """The users with a training interaction with each item."""
    users: list[set[int]] = [set() for _ in range(sequences.items)]
    for row in np.flatnonzero(sequences.split == 0):
        users[sequences.item[row]].add(int(sequences.user[row]))
    return users


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_popularity_ranks_by_training_counts_only(seed: int) -> None:
    sequences = random_sequences(seed)
    counts = [0] * sequences.items
    for item, split in zip(sequences.item.tolist(), sequences.split.tolist(), strict=True):
        counts[item] += split == 0
    ranks = ranked(Popularity(), sequences, True, 5)
    for index, target in enumerate(sequences.targets(TEST)):
        domain = sequences.domains[sequences.domain[target]]
        expected = naive_rank(sequences, int(target), [float(c) for c in counts[domain.start : domain.end]], True)
        assert (ranks.rank[index], ranks.candidates[index]) == expected


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), pace=st.integers(1, 60))
def test_recent_popularity_counts_the_training_interactions_of_the_90_days_before(seed: int, pace: int) -> None:
    sequences = random_sequences(seed)
    sequences.timestamp[:] = sequences.timestamp * pace + np.random.default_rng(seed).integers(0, DAY)
    days = (sequences.timestamp // DAY).tolist()
    training = np.flatnonzero(sequences.split == 0).tolist()
    end = max(days[index] for index in training) + 1
    ranks = ranked(RecentPopularity(), sequences, True, 5)
    for index, target in enumerate(sequences.targets(TEST)):
        domain = sequences.domains[sequences.domain[target]]
        now = min(days[target], end)
        counts = [0.0] * sequences.items
        for other in training:
            counts[sequences.item[other]] += now - 90 <= days[other] < now
        expected = naive_rank(sequences, int(target), counts[domain.start : domain.end], True)
        assert (ranks.rank[index], ranks.candidates[index]) == expected


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_recent_counts_are_of_all_interactions_of_the_30_days_before(seed: int) -> None:
    sequences = random_sequences(seed)
    ranks = ranked(RecentCounted(), sequences, True, 5)
    for index, target in enumerate(sequences.targets(TEST)):
        domain, time = sequences.domains[sequences.domain[target]], int(sequences.timestamp[target])
        counts = [float(recent_count(sequences, item, time)) for item in range(domain.start, domain.end)]
        expected = naive_rank(sequences, int(target), counts, True)
        assert (ranks.rank[index], ranks.candidates[index]) == expected


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_item_knn_sums_the_cosines_to_the_items_of_the_history(seed: int) -> None:
    sequences = random_sequences(seed, users=25)
    users_of = users_of_items(sequences)

    def cosine(a: int, b: int) -> float:
        if a == b or not users_of[a] or not users_of[b]:
            return 0.0
        return len(users_of[a] & users_of[b]) / math.sqrt(len(users_of[a]) * len(users_of[b]))

    targets = sequences.targets(TEST)
    ranks = ranked(ItemKnn(), sequences, False, 4, neighbours=sequences.items)
    for index, target in enumerate(targets):
        history = sequences.item[sequences.offsets[sequences.user[target]] : target].tolist()
        domain = sequences.domains[sequences.domain[target]]
        scores = [sum(cosine(i, j) for j in history) for i in range(domain.start, domain.end)]
        own = scores[int(sequences.item[target]) - domain.start]
        # Sums in another order may differ in the last bit, so ties are compared with a tolerance.
        surely, possibly = (sum(s > own + e for s in scores) for e in (1e-9, -1e-9))
        assert surely < ranks.rank[index] <= possibly


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), neighbours=st.integers(1, 6), in_memory=st.sampled_from([1, 7, 1024]))
def test_of_equally_similar_items_the_lower_number_is_the_neighbour(seed: int, neighbours: int, in_memory: int) -> None:
    """With few users many items are equally similar. The expected values are exact fractions."""
    sequences = random_sequences(seed, users=6)
    users_of = users_of_items(sequences)
    expected = np.zeros((sequences.items, sequences.items))
    for i, users_i in enumerate(users_of):
        squares = {
            j: Fraction(len(users_i & users_j) ** 2, len(users_i) * len(users_j))
            for j, users_j in enumerate(users_of)
            if j != i and users_i & users_j
        }
        for j in sorted(squares, key=lambda j: (-squares[j], j))[:neighbours]:
            expected[j, i] = math.sqrt(squares[j])
    with patch.object(cooccurrence, "_ITEMS", in_memory):
        found = baselines._item_similarity(sequences, neighbours).toarray()
    np.testing.assert_array_equal(found, expected)
