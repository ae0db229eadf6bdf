"""A training step's parts fit together, its negatives are uniform, and the next step is prepared in a thread."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import WHOLE_MODEL, all_in_training, random_sequences, recent_count

from tapestry.core.arrays import Integers
from tapestry.core.splits import TRAIN
from tapestry.model.network import Recommender
from tapestry.sequences.batches import Batch, pack, trained_users, training_histories
from tapestry.sequences.reader import Sequences
from tapestry.training.auxiliary import Auxiliary
from tapestry.training.steps import Step, prefetched, prepare_step

SEEDS = st.integers(0, 10_000)


def whole_training(seed: int, **sizes: int) -> Sequences:
    return all_in_training(random_sequences(seed, **sizes))


def whole_histories(sequences: Sequences) -> Batch:
    return pack(sequences, sequences.offsets[:-1], sequences.offsets[1:] - 1)


def prepared(
    sequences: Sequences, negatives: int | None, generator: np.random.Generator, intra: bool = True
) -> tuple[Batch, Step]:
    """A batch, and the step prepared from it."""
    settings = dataclasses.replace(WHOLE_MODEL, attention="intra" if intra else "full")
    model = Recommender(settings, sequences.items, len(sequences.domains))
    batch = whole_histories(sequences)
    users = np.arange(len(sequences.user_id))
    return batch, prepare_step(model, "tiled", sequences, users, batch, negatives, generator)


@settings(max_examples=25, deadline=None)
@given(
    seed=SEEDS,
    users=st.integers(1, 6),
    domains=st.integers(1, 4),
    negatives=st.sampled_from([None, 1, 3, 7, 8, 500]),
    intra=st.booleans(),
)
def test_a_steps_parts_fit_together(seed: int, users: int, domains: int, negatives: int | None, intra: bool) -> None:
    sequences = whole_training(seed, users=users, items=8 * domains, domains=domains, longest=8)
    batch, step = prepared(sequences, negatives, np.random.default_rng(seed), intra)
    touched = step.touched_U.tolist()
    order = step.segments.order_N.tolist()
    items, targets, target_domains = (x.tolist() for x in (batch.item_N, batch.target_N, batch.target_domain_N))

    assert touched == sorted(set(touched))
    assert [touched[row] for row in step.batch.item_N.tolist()] == items
    for name in ("domain_N", "target_N", "target_domain_N", "position_N", "offsets_B1"):
        assert torch.equal(getattr(step.batch, name), getattr(batch, name))
    assert step.users.tolist() == list(range(users))

    all_tokens: list[int] = []
    read = {*items, *targets}
    for part in step.targets:
        tokens = part.query_T.tolist()
        (domain,) = {target_domains[order[token]] for token in tokens}
        slice_of = sequences.domains[domain]
        of_domain = [item for item in range(slice_of.start, slice_of.end) if sequences.train_count[item] > 0]
        target_items = [touched[row] for row in part.target_T.tolist()]
        assert target_items == [targets[order[token]] for token in tokens]
        candidates = [touched[row] for row in part.candidates_C.tolist()]
        assert len(set(candidates)) == len(candidates)
        assert set(candidates) <= set(of_domain)  # no item that is in no training interaction
        assert len(candidates) == (len(of_domain) if negatives is None else min(negatives, len(of_domain)))
        hits = list(zip(part.hit_query_M.tolist(), part.hit_candidate_M.tolist(), strict=True))
        assert hits == [
            (number, index)
            for number, target in enumerate(target_items)
            for index, candidate in enumerate(candidates)
            if candidate == target
        ]
        all_tokens += tokens
        read |= set(candidates)
    assert sorted(all_tokens) == list(range(len(order)))
    assert len(step.targets) == len(set(target_domains))
    assert set(touched) == read


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, negatives=st.sampled_from([None, 3]), data=st.data())
def test_auxiliary_targets_follow_the_tokens_own_targets(seed: int, negatives: int | None, data: st.DataObject) -> None:
    sequences = whole_training(seed, users=4)
    batch = whole_histories(sequences)
    tokens = len(batch.item_N)
    drawn = st.tuples(st.integers(0, tokens - 1), st.integers(0, len(sequences.item) - 1))
    pairs = data.draw(st.lists(drawn, max_size=9))
    token_A, target_A = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    auxiliary = Auxiliary(token_A, target_A, weight=0.25)
    model = Recommender(WHOLE_MODEL, sequences.items, len(sequences.domains))
    generator = np.random.default_rng(seed)
    step = prepare_step(model, "tiled", sequences, np.arange(4), batch, negatives, generator, auxiliary)
    assert step.weight_R is not None
    assert step.weight_R.tolist() == [1.0] * tokens + [0.25] * len(pairs)
    order = step.segments.order_N.tolist()
    token = [order[place] for place in step.requests.token_R.tolist()]
    assert token == order + [token for token, _ in pairs]
    index = [*(batch.target_N[order].tolist()), *(int(sequences.item[target]) for _, target in pairs)]
    time = [*(batch.target_time_N[order].tolist()), *(int(sequences.timestamp[target]) for _, target in pairs)]
    assert step.requests.time_R.tolist() == time
    found: dict[int, int] = {}
    for part in step.targets:
        rows = zip(part.query_T.tolist(), step.touched_U[part.target_T].tolist(), strict=True)
        found |= dict(rows)
        candidates = step.touched_U[part.candidates_C].tolist()
        (domain,) = {d for d in sequences.domains if d.start <= candidates[0] < d.end}
        assert all(domain.start <= item < domain.end for item in candidates)
        assert all(domain.start <= found[query] < domain.end for query in part.query_T.tolist())
    assert [found[query] for query in range(len(index))] == index


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, negatives=st.sampled_from([None, 3]))
def test_scores_add_the_counts_of_training_interactions(seed: int, negatives: int | None) -> None:
    sequences = random_sequences(seed, users=9, items=8)
    users = trained_users(sequences)
    batch = pack(sequences, *(part[users] for part in training_histories(sequences, window=4)))
    auxiliary = Auxiliary(np.array([0, 1]), np.array([3, 1]), weight=0.5)
    model = Recommender(WHOLE_MODEL, sequences.items, len(sequences.domains))
    step = prepare_step(model, "tiled", sequences, users, batch, negatives, np.random.default_rng(seed), auxiliary)

    def added(item: int, query: int) -> float:
        count = recent_count(sequences, item, int(step.requests.time_R[query]), (TRAIN,))
        return WHOLE_MODEL.recent_weight * math.log(1 + count)

    for part in step.targets:
        assert part.offsets is not None
        candidates, targets = (step.touched_U[rows].tolist() for rows in (part.candidates_C, part.target_T))
        found_TC = part.offsets.day_PC[part.offsets.row_T]
        for row, query in enumerate(part.query_T.tolist()):
            assert found_TC[row].tolist() == pytest.approx([added(item, query) for item in candidates], rel=1e-6)
            assert float(part.offsets.target_T[row]) == pytest.approx(added(targets[row], query), rel=1e-6)


def test_without_a_weight_nothing_is_counted() -> None:
    sequences = whole_training(0)
    model = Recommender(dataclasses.replace(WHOLE_MODEL, recent_weight=0.0), sequences.items, len(sequences.domains))
    users, generator = np.arange(len(sequences.user_id)), np.random.default_rng(0)
    step = prepare_step(model, "tiled", sequences, users, whole_histories(sequences), 3, generator)
    assert all(part.offsets is None for part in step.targets)
    assert "training_counts" not in vars(sequences)


def own_items(sequences: Sequences, user: int) -> set[int]:
    start, end = sequences.offsets[user : user + 2].tolist()
    return {int(sequences.item[index]) for index in range(start, end) if sequences.split[index] == TRAIN}


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, negatives=st.sampled_from([None, 1, 4]), parts=st.sampled_from([None, [0, 2, 3], [4], []]))
def test_a_users_own_items_are_no_negatives(seed: int, negatives: int | None, parts: list[int] | None) -> None:
    """Also those that the model's window doesn't reach, and of a process that computes only some of the histories."""
    sequences = random_sequences(seed, users=9, longest=12)
    users = np.random.default_rng(seed).permutation(trained_users(sequences))[:5]
    starts, ends = training_histories(sequences, window=3)
    batch = pack(sequences, starts[users], ends[users])
    pairs = later_interactions(sequences, users, batch)
    token_A, target_A = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    auxiliary = Auxiliary(token_A, target_A, weight=0.5)
    model = Recommender(WHOLE_MODEL, sequences.items, len(sequences.domains))
    part = None if parts is None else np.array([place for place in parts if place < len(users)], dtype=np.int64)

    def prepare(own_items_as_negatives: bool) -> Step:
        generator = np.random.default_rng(seed)
        return prepare_step(
            model,
            "tiled",
            sequences,
            users,
            batch,
            negatives,
            generator,
            auxiliary,
            part,
            own_items_as_negatives,
        )

    step, usual = prepare(own_items_as_negatives=False), prepare(own_items_as_negatives=True)
    order = step.segments.order_N.tolist()
    user_of_token = np.repeat(step.users, step.batch.offsets_B1.diff().numpy()).tolist()
    assert len(step.targets) == len(usual.targets)
    for domain, same in zip(step.targets, usual.targets, strict=True):
        for name in ("query_T", "target_T", "candidates_C"):
            assert torch.equal(getattr(domain, name), getattr(same, name))
        candidates = step.touched_U[domain.candidates_C].tolist()
        hits = list(zip(domain.hit_query_M.tolist(), domain.hit_candidate_M.tolist(), strict=True))
        assert [query for query, _ in hits] == sorted(query for query, _ in hits)
        expected = set()
        for number, query in enumerate(domain.query_T.tolist()):
            own = own_items(sequences, user_of_token[order[int(step.requests.token_R[query])]])
            expected |= {(number, place) for place, candidate in enumerate(candidates) if candidate in own}
        assert set(hits) == expected
        assert set(hits) >= set(zip(same.hit_query_M.tolist(), same.hit_candidate_M.tolist(), strict=True))


def later_interactions(sequences: Sequences, users: Integers, batch: Batch) -> list[tuple[int, int]]:
    """Pairs of a token and each training interaction after the one that follows it."""
    found: list[tuple[int, int]] = []
    first = 0
    starts, _ = training_histories(sequences, window=3)
    for user, length in zip(users.tolist(), batch.offsets_B1.diff().tolist(), strict=True):
        end = int(sequences.offsets[user] + sequences.train_length[user])
        start = int(starts[user])
        found += [(first + token, index) for token in range(length) for index in range(start + token + 2, end)]
        first += length
    return found


def candidates_of(step: Step) -> list[list[int]]:
    return [step.touched_U[part.candidates_C].tolist() for part in step.targets]


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_equal_generators_draw_equal_negatives_and_each_step_draws_new_ones(seed: int) -> None:
    sequences = whole_training(seed, items=90)
    generator, same = np.random.default_rng(seed), np.random.default_rng(seed)
    (_, first), (_, second) = (prepared(sequences, 10, generator) for _ in range(2))
    (_, first_again), (_, second_again) = (prepared(sequences, 10, same) for _ in range(2))
    assert candidates_of(first) != candidates_of(second)
    for one, other in ((first, first_again), (second, second_again)):
        assert torch.equal(one.touched_U, other.touched_U)
        for part, again in zip(one.targets, other.targets, strict=True):
            for name in ("query_T", "target_T", "candidates_C", "hit_query_M", "hit_candidate_M"):
                assert torch.equal(getattr(part, name), getattr(again, name))


def test_each_item_of_a_domain_is_drawn_equally_often() -> None:
    sequences = whole_training(0, users=40)
    generator = np.random.default_rng(0)
    assert (sequences.train_count > 0).all()
    draws, negatives, size = 300, 3, 10
    counts = np.zeros(sequences.items)
    for _ in range(draws):
        _, step = prepared(sequences, negatives, generator)
        assert len(step.targets) == 3
        for drawn in candidates_of(step):
            counts[drawn] += 1
    share = negatives / size
    assert np.abs(counts - draws * share).max() < 5 * math.sqrt(draws * share * (1 - share))


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_prefetched_items_are_the_same_in_the_same_order(count: int) -> None:
    assert list(prefetched(iter(range(count)))) == list(range(count))


@pytest.mark.parametrize("good", [0, 1, 3])
def test_an_exception_is_raised_after_the_items_before_it(good: int) -> None:
    def items() -> Iterator[int]:
        yield from range(good)
        raise LookupError("no more items")

    following = prefetched(items())
    assert [next(following) for _ in range(good)] == list(range(good))
    with pytest.raises(LookupError, match="no more items"):
        next(following)


def test_only_the_next_item_is_made_while_one_is_used() -> None:
    made = [threading.Event() for _ in range(6)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    following = prefetched(items())
    assert not made[0].is_set()
    for item in following:
        if item + 1 < len(made):
            assert made[item + 1].wait(10)
        time.sleep(0.01)  # long enough to make all items
        assert [event.is_set() for event in made[item + 2 :]] == [False] * len(made[item + 2 :])
