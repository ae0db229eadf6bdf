"""The best items for a history, compared with plain loops and with evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import (
    WHOLE_MODEL,
    naive_similarity,
    neighbour_addition,
    random_sequences,
    recent_addition,
    sequences_of,
)

from tapestry.core.splits import TEST
from tapestry.evaluation.scoring import rank_by_model
from tapestry.model.network import Recommender
from tapestry.model.request_time import LATEST, Requests
from tapestry.model.settings import ModelSettings
from tapestry.recommending import top
from tapestry.recommending.catalogue import Catalogue
from tapestry.recommending.top import Request, Top, top_items
from tapestry.sequences.batches import Batch
from tapestry.sequences.cooccurrence import neighbours_of
from tapestry.sequences.reader import Sequences


def small_model(sequences: Sequences, settings: ModelSettings = WHOLE_MODEL) -> Recommender:
    torch.manual_seed(0)
    model = Recommender(settings, sequences.items, len(sequences.domains)).double().eval()
    assert model.request_time is not None
    torch.nn.init.normal_(model.request_time.period.weight, std=0.1)
    model.neighbours = neighbours_of(sequences)
    return model


def catalogue_of(sequences: Sequences) -> Catalogue:
    return Catalogue(sequences.item_id, sequences.domains, sequences.known_counts)


@torch.no_grad()
def naive_scores(model: Recommender, sequences: Sequences, history: list[int], domain: int, time: int) -> list[float]:
    """Scores of a domain's items, in order, for a batch of one history, by the reference kernel."""
    whole, history = history, history[-model.settings.window :]
    similarity = {} if model.neighbours is None else naive_similarity(sequences)
    domains = [next(i for i, d in enumerate(sequences.domains) if d.start <= item < d.end) for item in history]
    batch = Batch(
        item_N=torch.tensor(history),
        domain_N=torch.tensor(domains),
        target_N=torch.zeros(len(history), dtype=torch.int64),
        target_domain_N=torch.tensor([*domains[1:], domain]),
        target_time_N=torch.full((len(history),), time),
        position_N=torch.arange(len(history)),
        offsets_B1=torch.tensor([0, len(history)]),
    )
    segments = model.arrange(batch, "reference")
    query = model(batch, segments)[segments.inverse_N[-1]]
    requested = sequences.domains[domain]
    scores = []
    for item in range(requested.start, requested.end):
        added = recent_addition(sequences, item, time, model.settings.recent_weight, int(model.trained_until or 0))
        added += neighbour_addition(similarity, sequences, whole, item, model.settings.neighbour_weight)
        scores.append(float(model.item_vectors(slice(item, item + 1))[0] @ query) + added)
    return scores


def naive_top(
    scores: list[float], start: int, history: list[int], k: int, exclude_seen: bool
) -> tuple[list[int], list[float]]:
    """Items and scores by descending score; of equal scores the lower item first."""
    items = range(start, start + len(scores))
    candidates = [item for item in items if not exclude_seen or item not in history]
    best = sorted(candidates, key=lambda item: (-scores[item - start], item))[:k]
    return best, [scores[item - start] for item in best]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 14),
    exclude_seen=st.booleans(),
    batch=st.integers(1, 9),
    in_memory=st.sampled_from([1, 20, 10**6]),
    window=st.sampled_from([1, 4, 64]),
    trained_until=st.sampled_from([3, 10**6]),
)
def test_the_best_items_equal_those_of_plain_loops(
    seed: int, k: int, exclude_seen: bool, batch: int, in_memory: int, window: int, trained_until: int
) -> None:
    sequences = random_sequences(seed)
    model = small_model(sequences, dataclasses.replace(WHOLE_MODEL, window=window))
    assert model.trained_until is not None
    model.trained_until.fill_(trained_until)
    generator = np.random.default_rng(seed)
    requests = [
        Request(
            f"u{user}", sequences.item[sequences.user == user].astype(np.int64), 0, int(generator.integers(3)), time
        )
        for user, time in enumerate(generator.choice([0, 10**10, LATEST], len(sequences.user_id)).tolist())
    ]
    with patch.object(top, "_SCORES", in_memory):
        found = list(top_items(model, catalogue_of(sequences), requests, k, exclude_seen, batch))
    assert [request.user_id for request, _ in found] == [request.user_id for request in requests]
    for request, best in found:
        history = request.history.tolist()
        scores = naive_scores(model, sequences, history, request.domain, request.time)
        start = sequences.domains[request.domain].start
        items, expected = naive_top(scores, start, history, k, exclude_seen)
        assert best.item.tolist() == items
        # what counts add is rounded to float32
        np.testing.assert_allclose(best.score, expected, atol=1e-7)


class Tied(Recommender):
    """A model whose scores come from a table: a score an item, the same for all histories, and many are equal."""

    table: torch.Tensor

    def item_vectors(self, items: torch.Tensor | slice) -> torch.Tensor:
        vectors = torch.zeros(len(self.table[items]), self.settings.width, dtype=torch.float64)
        vectors[:, 0] = self.table[items]
        return vectors

    def forward(
        self, batch: Batch, segments: object, table_UK: object = None, requests: Requests | None = None
    ) -> torch.Tensor:
        assert requests is not None
        query = torch.zeros(len(requests.token_R), self.settings.width, dtype=torch.float64)
        query[:, 0] = 1
        return query


def tied_top(table: list[float], k: int, in_memory: int) -> Top:
    sequences = sequences_of([[0, 1, 2]], [0] * len(table))
    model = Tied(dataclasses.replace(WHOLE_MODEL, recent_weight=0.0), len(table), 1).double()
    model.table = torch.tensor(table, dtype=torch.float64)
    request = Request("u", np.array([0, 1, 2]), 0, 0)
    with patch.object(top, "_SCORES", in_memory):
        ((_, best),) = top_items(model, catalogue_of(sequences), [request], k, False, 8)
    return best


@settings(max_examples=40, deadline=None)
@given(
    table=st.lists(st.sampled_from([0.0, -0.0, 0.5, -0.5]), min_size=3, max_size=40),
    k=st.integers(1, 12),
    in_memory=st.sampled_from([1, 5, 10**6]),
)
def test_of_equal_scores_the_lower_item_number_comes_first(table: list[float], k: int, in_memory: int) -> None:
    assert tied_top(table, k, in_memory).item.tolist() == naive_top(table, 0, [], k, False)[0]


def test_an_item_with_a_nan_score_is_never_recommended() -> None:
    assert tied_top([float("nan"), 0.1, float("nan"), 0.2], 4, 10**6).item.tolist() == [3, 1]


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_a_test_target_has_the_same_rank_as_in_evaluation(exclude_seen: bool) -> None:
    sequences = random_sequences(11, users=40, items=60)
    model = small_model(sequences)
    targets = sequences.targets(TEST)
    ranks = rank_by_model(model, sequences, targets, exclude_seen, 16)
    requests = [
        Request(
            str(target),
            sequences.item[sequences.offsets[sequences.user[target]] : target].astype(np.int64),
            0,
            int(sequences.domain[target]),
            int(sequences.timestamp[target]),
        )
        for target in targets
    ]
    compared = 0
    found = top_items(model, catalogue_of(sequences), requests, sequences.items, exclude_seen, 16)
    for (request, best), target, rank, candidates in zip(found, targets, ranks.rank, ranks.candidates, strict=True):
        item = int(sequences.item[target])
        if exclude_seen and item in request.history:  # in evaluation the target stays a candidate
            assert item not in best.item
        else:
            assert best.item.tolist().index(item) + 1 == rank
            assert len(best.item) == candidates
            compared += 1
    assert compared > 10


def test_no_more_than_the_stated_number_of_scores_is_in_memory() -> None:
    sequences = random_sequences(3, users=20, items=90)
    requests = [Request("u", np.array([0, 31, 62]), 0, user % 3) for user in range(20)]
    asked: list[int] = []

    def scores(model: Recommender, query: torch.Tensor, items: slice, **_: object) -> torch.Tensor:
        asked.append(len(query) * (items.stop - items.start))
        return torch.zeros(len(query), items.stop - items.start)

    with patch.object(top, "_SCORES", 50), patch.object(top, "item_scores", scores):
        list(top_items(small_model(sequences), catalogue_of(sequences), requests, 3, True, 7))
    assert max(asked) <= 50
    assert sum(asked) == 20 * 30


def test_requests_are_read_a_batch_at_a_time() -> None:
    sequences = random_sequences(3)
    taken: list[int] = []

    def requests() -> Iterator[Request]:
        for number in range(9):
            taken.append(number)
            yield Request(str(number), np.array([0]), 0, 0)

    found = top_items(small_model(sequences), catalogue_of(sequences), requests(), 3, True, 4)
    next(found)
    assert taken == [0, 1, 2, 3]


def test_an_empty_history_has_no_items_and_does_not_change_other_results() -> None:
    sequences = random_sequences(5)
    empty = np.empty(0, dtype=np.int64)
    filled = Request("b", np.array([0, 1]), 0, 1)
    requests = [Request("a", empty, 2, 0), filled, Request("c", empty, 0, 1)]
    model = small_model(sequences)
    found = {request.user_id: best for request, best in top_items(model, catalogue_of(sequences), requests, 3, True, 8)}
    ((_, separate),) = top_items(model, catalogue_of(sequences), [filled], 3, True, 8)
    assert len(found["a"].item) == len(found["c"].item) == 0
    assert found["b"].item.tolist() == separate.item.tolist()


def test_if_all_items_are_seen_there_is_no_result() -> None:
    sequences = sequences_of([[0, 1, 2]], [0, 0, 1])
    requests = [Request("u", np.array([0, 1]), 0, domain) for domain in (0, 1)]
    found = list(top_items(small_model(sequences), catalogue_of(sequences), requests, 5, True, 8))
    assert [best.item.tolist() for _, best in found] == [[], [2]]
