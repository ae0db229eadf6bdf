"""Batches against plain loops. Every interaction has an item of its own, so an item tells the interaction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import sequences_of

from tapestry.core.splits import TEST, TRAIN, VALIDATION
from tapestry.sequences.batches import Batch, pack, target_batches, trained_users, training_batches
from tapestry.sequences.reader import Sequences

Steps = list[tuple[int, int]]  # (item, item that came next)


@dataclass(frozen=True)
class Case:
    """Sequences, and the same as lists: by user, (item, split) in order."""

    sequences: Sequences
    histories: list[list[tuple[int, int]]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Users with any number of training, validation and test interactions, in that order."""
    counts = draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=12))
    splits = [[TRAIN] * a + [VALIDATION] * b + [TEST] * c for a, b, c in counts]
    splits = [history for history in splits if history] or [[TRAIN, VALIDATION, TEST]]
    total = sum(map(len, splits))
    items = iter(draw(st.permutations(range(total))))
    histories = [[(next(items), split) for split in history] for history in splits]
    domains = min(total, draw(st.integers(1, 3)))
    sequences = sequences_of(
        [[item for item, _ in history] for history in histories],
        [item * domains // total for item in range(total)],
        split=splits,
    )
    return Case(sequences, histories)


windows = st.integers(1, 8)
sizes = st.integers(1, 5)


def steps_of(batch: Batch) -> list[Steps]:
    """The steps of each history of a batch."""
    pairs = list(zip(batch.item_N.tolist(), batch.target_N.tolist(), strict=True))
    return [pairs[start:end] for start, end in pairwise(batch.offsets_B1.tolist())]


def assert_well_formed(batch: Batch, sequences: Sequences) -> None:
    """Offsets span the tokens, positions count from 0, domains are those of the items, all is int64."""
    domain_of_item = {item: number for number, d in enumerate(sequences.domains) for item in range(d.start, d.end)}
    lengths = [end - start for start, end in pairwise(batch.offsets_B1.tolist())]
    assert all(length >= 1 for length in lengths)
    assert batch.offsets_B1[0] == 0
    assert batch.position_N.tolist() == [position for length in lengths for position in range(length)]
    assert batch.domain_N.tolist() == [domain_of_item[item] for item in batch.item_N.tolist()]
    assert batch.target_domain_N.tolist() == [domain_of_item[item] for item in batch.target_N.tolist()]
    tensors = vars(batch)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.int64}
    assert {len(tensor) for name, tensor in tensors.items() if name.endswith("_N")} == {sum(lengths)}


def epoch(case: Case, window: int, batch_users: int, seed: int = 7) -> list[Batch]:
    return [batch for _, batch in training_batches(case.sequences, window, batch_users, np.random.default_rng(seed))]


def all_steps(batches: Iterable[Batch]) -> list[Steps]:
    return [steps for batch in batches for steps in steps_of(batch)]


@settings(max_examples=50, deadline=None)
@given(case=cases(), data=st.data())
def test_packed_tokens_are_those_of_each_slice_with_the_next_item_as_target(case: Case, data: st.DataObject) -> None:
    long_enough = [user for user, history in enumerate(case.histories) if len(history) >= 2]
    users = data.draw(st.lists(st.sampled_from(long_enough), max_size=5)) if long_enough else []
    slices = []
    for user in users:
        start = data.draw(st.integers(0, len(case.histories[user]) - 2))
        slices.append((user, start, data.draw(st.integers(start + 1, len(case.histories[user]) - 1))))
    firsts = np.array([case.sequences.offsets[user] for user, _, _ in slices], dtype=np.int64)
    starts, ends = (firsts + np.array([part[k] for part in slices], dtype=np.int64) for k in (1, 2))
    batch = pack(case.sequences, starts, ends)
    assert_well_formed(batch, case.sequences)
    items = [[item for item, _ in history] for history in case.histories]
    assert steps_of(batch) == [list(pairwise(items[user][start : end + 1])) for user, start, end in slices]


@settings(max_examples=50, deadline=None)
@given(case=cases(), window=windows, batch_users=sizes)
def test_an_epoch_has_every_user_once_with_the_last_steps_between_training_items(
    case: Case, window: int, batch_users: int
) -> None:
    batches = epoch(case, window, batch_users)
    trained = [[item for item, split in history if split == TRAIN] for history in case.histories]
    expected = [list(pairwise(items))[-window:] for items in trained if len(items) >= 2]
    assert sorted(all_steps(batches)) == sorted(expected)
    for batch in batches:
        assert_well_formed(batch, case.sequences)
    full, rest = divmod(len(expected), batch_users)
    assert [len(steps_of(batch)) for batch in batches] == [batch_users] * full + [rest] * (rest > 0)


@settings(max_examples=50, deadline=None)
@given(case=cases(), window=windows, batch_users=sizes)
def test_no_validation_or_test_item_is_seen_in_training(case: Case, window: int, batch_users: int) -> None:
    held_out = {item for history in case.histories for item, split in history if split != TRAIN}
    seen = {item for steps in all_steps(epoch(case, window, batch_users)) for step in steps for item in step}
    assert held_out.isdisjoint(seen)


@settings(max_examples=50, deadline=None)
@given(case=cases(), window=windows, batch_users=sizes, split=st.sampled_from([VALIDATION, TEST]))
def test_every_target_comes_once_after_the_interactions_before_it(
    case: Case, window: int, batch_users: int, split: int
) -> None:
    targets = case.sequences.targets(split)
    batches = list(target_batches(case.sequences, targets, window, batch_users))
    items = [[item for item, _ in history] for history in case.histories]
    expected = {
        items[user][place]: list(pairwise(items[user][: place + 1]))[-window:]
        for user, history in enumerate(case.histories)
        for place, (_, of_split) in enumerate(history)
        if of_split == split and place > 0
    }
    found = []
    for places, batch in batches:
        assert_well_formed(batch, case.sequences)
        assert 1 <= len(places) <= batch_users
        for place, steps in zip(places, steps_of(batch), strict=True):
            target = int(case.sequences.item[targets[place]])
            assert steps[-1][1] == target
            found.append((target, steps))
    assert len(found) == len(expected)
    assert dict(found) == expected


@settings(max_examples=25, deadline=None)
@given(case=cases(), batch_users=sizes)
def test_the_users_named_with_a_batch_are_those_whose_histories_it_holds(case: Case, batch_users: int) -> None:
    seen = []
    for users, batch in training_batches(case.sequences, 1000, batch_users, np.random.default_rng(0)):
        for user, steps in zip(users.tolist(), steps_of(batch), strict=True):
            assert next(item for item, split in case.histories[user] if split == TRAIN) == steps[0][0]
            seen.append(user)
    assert sorted(seen) == trained_users(case.sequences).tolist()


def many_users() -> Case:
    histories = [[(3 * user + k, TRAIN) for k in range(3)] for user in range(50)]
    items = [[item for item, _ in history] for history in histories]
    return Case(sequences_of(items, [0] * 150, split=[[TRAIN] * 3] * 50), histories)


def test_a_seed_gives_one_order_of_users_and_another_seed_another() -> None:
    case = many_users()
    one, again, other = (all_steps(epoch(case, 8, 7, seed)) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_each_epoch_of_one_generator_has_another_order_of_users() -> None:
    case, generator = many_users(), np.random.default_rng(7)
    epochs = [training_batches(case.sequences, 8, 7, generator) for _ in range(2)]
    first, second = (all_steps(batch for _, batch in batches) for batches in epochs)
    assert first != second
    assert sorted(first) == sorted(second)


def test_no_targets_give_no_batches() -> None:
    case = many_users()
    assert list(target_batches(case.sequences, case.sequences.targets(TEST), 8, 7)) == []
