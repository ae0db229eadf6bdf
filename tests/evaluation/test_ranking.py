"""Ranks and metrics, compared with plain loops, scikit-learn and cases computed by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.ranking import naive_rank
from several_processes import in_processes, ranks_of_processes
from sklearn.metrics import ndcg_score
from small import (
    WHOLE_MODEL,
    naive_similarity,
    neighbour_addition,
    random_sequences,
    recent_addition,
    sequences_of,
)

from tapestry.core.arrays import Integers
from tapestry.core.splits import TEST, VALIDATION
from tapestry.evaluation import ranking
from tapestry.evaluation.metrics import ranking_metrics
from tapestry.evaluation.ranking import Scores, rank_targets
from tapestry.evaluation.scoring import rank_by_model
from tapestry.model.network import Recommender
from tapestry.parallel.processes import ALONE
from tapestry.sequences.batches import pack
from tapestry.sequences.cooccurrence import neighbours_of


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    exclude_seen=st.booleans(),
    chunk=st.integers(1, 7),
    in_memory=st.sampled_from([1, 20, 10**6]),
    kind=st.sampled_from([np.asarray, torch.from_numpy]),
)
def test_ranks_equal_plain_loops_and_ties_count_against_the_target(
    seed: int, exclude_seen: bool, chunk: int, in_memory: int, kind: Callable[[Any], Scores]
) -> None:
    sequences = random_sequences(seed)
    targets = sequences.targets(TEST)
    table = np.random.default_rng(seed).integers(0, 5, (len(targets), sequences.items)).astype(float)

    def score(index: Integers, items: slice) -> Scores:
        return kind(table[index, items])

    index = np.arange(len(targets))
    chunks = ((index[i : i + chunk], score) for i in range(0, len(index), chunk))
    with patch.object(ranking, "_SCORES", in_memory):
        ranks = rank_targets(sequences, targets, exclude_seen, chunks)
    for number, target in enumerate(targets):
        domain = sequences.domains[sequences.domain[target]]
        scores = table[number, domain.start : domain.end].tolist()
        expected = naive_rank(sequences, int(target), scores, exclude_seen)
        assert (ranks.rank[number], ranks.candidates[number]) == expected


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_a_nan_score_counts_against_the_target(kind: Callable[[Any], Any]) -> None:
    sequences = sequences_of([[0, 1, 2]], [0, 0, 0, 0])
    scores = kind([[math.nan, 0.0, 1.0, math.nan]])
    ranks = rank_targets(
        sequences, sequences.targets(TEST), False, iter([(np.array([0]), lambda _, items: scores[:, items])])
    )
    assert ranks.rank.tolist() == [3]


@pytest.mark.parametrize("split", [VALIDATION, TEST])
@pytest.mark.parametrize("trained_until", [-200, 5, 10**6])
def test_the_model_ranks_by_its_scores_for_any_batch_size(split: int, trained_until: int) -> None:
    sequences = random_sequences(7, users=20)
    torch.manual_seed(0)
    model = Recommender(WHOLE_MODEL, sequences.items, 3).double().eval()
    assert model.trained_until is not None
    model.trained_until.fill_(trained_until)
    model.neighbours, similarity = neighbours_of(sequences), naive_similarity(sequences)
    targets = sequences.targets(split)
    by_batch = [rank_by_model(model, sequences, targets, True, size) for size in (1, 6, 100)]
    for ranks in by_batch:
        np.testing.assert_array_equal(ranks.rank, by_batch[0].rank)
    for number, target in enumerate(targets):
        start = sequences.offsets[sequences.user[target]]
        batch = pack(sequences, np.array([start]), np.array([target]))
        segments = model.arrange(batch, "reference")
        query = model(batch, segments)[segments.inverse_N[-1]]
        domain = sequences.domains[sequences.domain[target]]
        scores = (model.item_vectors(slice(domain.start, domain.end)) @ query).tolist()
        for index, item in enumerate(range(domain.start, domain.end)):
            time = int(sequences.timestamp[target])
            added = recent_addition(sequences, item, time, WHOLE_MODEL.recent_weight, trained_until)
            scores[index] += float(np.float32(added))
            history = sequences.item[start:target].tolist()
            scores[index] += neighbour_addition(similarity, sequences, history, item, WHOLE_MODEL.neighbour_weight)
        assert by_batch[0].rank[number] == naive_rank(sequences, int(target), scores, True)[0]


def test_no_more_than_the_stated_number_of_scores_is_computed_at_a_time() -> None:
    sequences = random_sequences(3, users=40, items=90)
    targets = sequences.targets(TEST)
    computed: list[int] = []

    def score(index: Integers, items: slice) -> torch.Tensor:
        computed.append(len(index) * (items.stop - items.start))
        return torch.zeros(len(index), items.stop - items.start)

    with patch.object(ranking, "_SCORES", 50):
        rank_targets(sequences, targets, False, iter([(np.arange(len(targets)), score)]))
    assert max(computed) <= 50
    assert sum(computed) < 2 * len(targets) * 30


def test_the_model_reads_only_the_last_window_of_a_history() -> None:
    sequences = sequences_of([[0, 1, 2, 3, 4, 5, 6, 7]], [0] * 9)
    longer = sequences_of([[8, 0, 1, 2, 3, 4, 5, 6, 7]], [0] * 9)
    torch.manual_seed(0)
    model = Recommender(WHOLE_MODEL, 9, 1)
    model.settings = type(WHOLE_MODEL)(**{**vars(WHOLE_MODEL), "window": 7})
    first, second = (rank_by_model(model, s, s.targets(TEST), False, 4) for s in (sequences, longer))
    assert first.rank.tolist() == second.rank.tolist()


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
def test_ndcg_equals_scikit_learns(seed: int, k: int) -> None:
    generator = np.random.default_rng(seed)
    scores = np.array([generator.permutation(12) for _ in range(6)])
    target = generator.integers(0, 12, 6)
    rank = 1 + (scores > scores[np.arange(6), target][:, None]).sum(1)
    expected = ndcg_score(np.eye(12)[target], scores, k=k)
    assert ranking_metrics(rank, [k])[f"ndcg_{k}"] == pytest.approx(expected)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_rank_as_one_does(count: int, sharded: bool) -> None:
    """With 3 items a domain, some of four processes hold none of its items."""
    sequences = random_sequences(7, users=23, items=9)
    expected = ranks_of_processes(ALONE, sequences, False)
    for found in in_processes(count, ranks_of_processes, sequences, sharded):
        np.testing.assert_array_equal(found, expected)
