"""Ranks and metrics against plain loops, scikit-learn and hand-computed cases."""

from __future__ import annotations

import math
from fractions import Fraction
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score
from small import WHOLE_MODEL, random_sequences, sequences_of

from tapestry.baselines import baselines
from tapestry.baselines.baselines import rank_by_item_knn, rank_by_popularity
from tapestry.core.splits import TEST, VALIDATION
from tapestry.evaluation import ranking
from tapestry.evaluation.metrics import ranking_metrics
from tapestry.evaluation.ranking import Integers, Ranks, rank_targets
from tapestry.evaluation.scoring import rank_by_model
from tapestry.model.network import Recommender
from tapestry.sequences.batches import pack
from tapestry.sequences.reader import Sequences


def naive_rank(sequences: Sequences, target: int, scores: list[float], exclude_seen: bool) -> tuple[int, int]:
    """`scores`: of the items of the target's domain, in order."""
    domain = sequences.domains[sequences.domain[target]]
    item = int(sequences.item[target])
    seen = set(sequences.item[sequences.offsets[sequences.owner[target]] : target].tolist()) if exclude_seen else set()
    rivals = [i for i in range(domain.start, domain.end) if i != item and i not in seen]
    above = sum(not scores[i - domain.start] < scores[item - domain.start] for i in rivals)
    return above + 1, len(rivals) + 1


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    exclude_seen=st.booleans(),
    chunk=st.integers(1, 7),
    held=st.sampled_from([1, 20, 10**6]),
)
def test_ranks_equal_plain_loops_with_ties_against_the_target(
    seed: int, exclude_seen: bool, chunk: int, held: int
) -> None:
    sequences = random_sequences(seed)
    targets = sequences.targets(TEST)
    table = np.random.default_rng(seed).integers(0, 5, (len(targets), sequences.items)).astype(float)

    def score(places: Integers, items: slice) -> torch.Tensor:
        return torch.from_numpy(table[places, items])

    places = np.arange(len(targets))
    chunks = ((places[i : i + chunk], score) for i in range(0, len(places), chunk))
    with patch.object(ranking, "_SCORES", held):
        ranks = rank_targets(sequences, targets, exclude_seen, chunks)
    for place, target in enumerate(targets):
        domain = sequences.domains[sequences.domain[target]]
        scores = table[place, domain.start : domain.end].tolist()
        expected = naive_rank(sequences, int(target), scores, exclude_seen)
        assert (ranks.rank[place], ranks.candidates[place]) == expected


def test_a_score_that_is_no_number_counts_against_the_target() -> None:
    sequences = sequences_of([[0, 1, 2]], [0, 0, 0, 0])
    scores = torch.tensor([[math.nan, 0.0, 1.0, math.nan]])
    ranks = rank_targets(
        sequences, sequences.targets(TEST), False, iter([(np.array([0]), lambda _, items: scores[:, items])])
    )
    assert ranks.rank.tolist() == [3]


@pytest.mark.parametrize("split", [VALIDATION, TEST])
def test_the_model_is_ranked_by_its_scores_whatever_the_batch(split: int) -> None:
    sequences = random_sequences(7, users=20)
    torch.manual_seed(0)
    model = Recommender(WHOLE_MODEL, sequences.items, 3).double().eval()
    targets = sequences.targets(split)
    by_batch = [rank_by_model(model, sequences, targets, True, size) for size in (1, 6, 100)]
    for ranks in by_batch:
        np.testing.assert_array_equal(ranks.rank, by_batch[0].rank)
    for place, target in enumerate(targets):
        start = sequences.offsets[sequences.owner[target]]
        batch = pack(sequences, np.array([start]), np.array([target]))
        segments = model.arrange(batch, "reference")
        query = model(batch, segments)[segments.inverse_N[-1]]
        domain = sequences.domains[sequences.domain[target]]
        scores = (model.item_vectors(slice(domain.start, domain.end)) @ query).tolist()
        assert by_batch[0].rank[place] == naive_rank(sequences, int(target), scores, True)[0]


def test_no_more_than_the_stated_number_of_scores_is_asked_for_at_a_time() -> None:
    sequences = random_sequences(3, users=40, items=90)
    targets = sequences.targets(TEST)
    asked: list[int] = []

    def score(places: Integers, items: slice) -> torch.Tensor:
        asked.append(len(places) * (items.stop - items.start))
        return torch.zeros(len(places), items.stop - items.start)

    with patch.object(ranking, "_SCORES", 50):
        rank_targets(sequences, targets, False, iter([(np.arange(len(targets)), score)]))
    assert max(asked) <= 50
    assert sum(asked) < 2 * len(targets) * 30


def test_the_model_reads_the_last_window_of_a_history() -> None:
    sequences = sequences_of([[0, 1, 2, 3, 4, 5, 6, 7]], [0] * 9)
    longer = sequences_of([[8, 0, 1, 2, 3, 4, 5, 6, 7]], [0] * 9)
    torch.manual_seed(0)
    model = Recommender(WHOLE_MODEL, 9, 1)
    model.settings = type(WHOLE_MODEL)(**{**vars(WHOLE_MODEL), "window": 7})
    first, second = (rank_by_model(model, s, s.targets(TEST), False, 4) for s in (sequences, longer))
    assert first.rank.tolist() == second.rank.tolist()


def popularity_ranks(sequences: Sequences) -> Ranks:
    return rank_by_popularity(sequences, sequences.targets(TEST), True, 5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_popularity_ranks_by_training_counts_alone(seed: int) -> None:
    sequences = random_sequences(seed)
    counts = [0] * sequences.items
    for item, split in zip(sequences.item.tolist(), sequences.split.tolist(), strict=True):
        counts[item] += split == 0
    ranks = popularity_ranks(sequences)
    for place, target in enumerate(sequences.targets(TEST)):
        domain = sequences.domains[sequences.domain[target]]
        expected = naive_rank(sequences, int(target), [float(c) for c in counts[domain.start : domain.end]], True)
        assert (ranks.rank[place], ranks.candidates[place]) == expected


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_item_knn_sums_the_cosines_of_the_history(seed: int) -> None:
    sequences = random_sequences(seed, users=25)
    users_of = [set() for _ in range(sequences.items)]  # type: list[set[int]]
    for row in np.flatnonzero(sequences.split == 0):
        users_of[sequences.item[row]].add(int(sequences.owner[row]))

    def cosine(a: int, b: int) -> float:
        if a == b or not users_of[a] or not users_of[b]:
            return 0.0
        return len(users_of[a] & users_of[b]) / math.sqrt(len(users_of[a]) * len(users_of[b]))

    targets = sequences.targets(TEST)
    ranks = rank_by_item_knn(sequences, targets, False, 4, neighbours=sequences.items)
    for place, target in enumerate(targets):
        history = sequences.item[sequences.offsets[sequences.owner[target]] : target].tolist()
        domain = sequences.domains[sequences.domain[target]]
        scores = [sum(cosine(i, j) for j in history) for i in range(domain.start, domain.end)]
        own = scores[int(sequences.item[target]) - domain.start]
        # Sums in another order may differ in the last bit, so ties are compared with a tolerance.
        surely, possibly = (sum(s > own + e for s in scores) for e in (1e-9, -1e-9))
        assert surely < ranks.rank[place] <= possibly


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), neighbours=st.integers(1, 6), held=st.sampled_from([1, 7, 1024]))
def test_item_knn_breaks_ties_between_neighbours_by_item(seed: int, neighbours: int, held: int) -> None:
    """Few users, so that many items are equally similar, compared as fractions."""
    sequences = random_sequences(seed, users=6)
    users_of = [set() for _ in range(sequences.items)]  # type: list[set[int]]
    for row in np.flatnonzero(sequences.split == 0):
        users_of[sequences.item[row]].add(int(sequences.owner[row]))
    expected = np.zeros((sequences.items, sequences.items))
    for i, mine in enumerate(users_of):
        squares = {
            j: Fraction(len(mine & theirs) ** 2, len(mine) * len(theirs))
            for j, theirs in enumerate(users_of)
            if j != i and mine & theirs
        }
        for j in sorted(squares, key=lambda j: (-squares[j], j))[:neighbours]:
            expected[j, i] = math.sqrt(squares[j])
    with patch.object(baselines, "_ITEMS", held):
        found = baselines._item_similarity(sequences, neighbours).toarray()
    np.testing.assert_array_equal(found, expected)


def test_metrics_of_hand_computed_ranks() -> None:
    metrics = ranking_metrics(np.array([1, 2, 3, 8]), [1, 2, 10])
    assert metrics == pytest.approx(
        {
            "n": 4,
            "hr_1": 0.25,
            "hr_2": 0.5,
            "hr_10": 1.0,
            "ndcg_1": 0.25,
            "ndcg_2": (1 + 1 / math.log2(3)) / 4,
            "ndcg_10": (1 + 1 / math.log2(3) + 1 / 2 + 1 / math.log2(9)) / 4,
            "mrr": (1 + 1 / 2 + 1 / 3 + 1 / 8) / 4,
        }
    )
    assert ranking_metrics(np.array([], dtype=np.int64), [1]) == {"n": 0}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 12))
def test_ndcg_is_scikit_learns(seed: int, k: int) -> None:
    generator = np.random.default_rng(seed)
    scores = np.array([generator.permutation(12) for _ in range(6)])
    target = generator.integers(0, 12, 6)
    rank = 1 + (scores > scores[np.arange(6), target][:, None]).sum(1)
    expected = ndcg_score(np.eye(12)[target], scores, k=k)
    assert ranking_metrics(rank, [k])[f"ndcg_{k}"] == pytest.approx(expected)
