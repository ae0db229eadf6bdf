"""Batches against plain loops. No two interactions share an item, so an item identifies its interaction."""

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
from tapestry.sequences.batches import (
    Batch,
    balanced,
    histories_of,
    pack,
    target_batches,
    trained_users,
    training_batches,
)
from tapestry.sequences.reader import Sequences

Steps = list[tuple[int, int]]  # (item, next item)


@dataclass(frozen=True)
class Case:
    """Sequences, and the same data as lists: for each user the (item, split) in time order."""

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
    """The (item, next item) pairs of each history of a batch."""
    pairs = list(zip(batch.item_N.tolist(), batch.target_N.tolist(), strict=True))
    return [pairs[start:end] for start, end in pairwise(batch.offsets_B1.tolist())]


def assert_well_formed(batch: Batch, sequences: Sequences) -> None:
    """Offsets cover all tokens, positions count from 0, domains match the items, and all tensors are int64."""
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
def test_packed_tokens_are_the_slices_and_their_targets_the_next_items(case: Case, data: st.DataObject) -> None:
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
def test_an_epoch_has_the_last_training_steps_of_every_user_once(case: Case, window: int, batch_users: int) -> None:
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
def test_training_batches_have_no_validation_or_test_item(case: Case, window: int, batch_users: int) -> None:
    held_out = {item for history in case.histories for item, split in history if split != TRAIN}
    seen = {item for steps in all_steps(epoch(case, window, batch_users)) for step in steps for item in step}
    assert held_out.isdisjoint(seen)


@settings(max_examples=50, deadline=None)
@given(case=cases(), window=windows, batch_users=sizes, split=st.sampled_from([VALIDATION, TEST]))
def test_target_batches_have_every_target_once_with_the_interactions_before_it(
    case: Case, window: int, batch_users: int, split: int
) -> None:
    targets = case.sequences.targets(split)
    batches = list(target_batches(case.sequences, targets, window, batch_users))
    items = [[item for item, _ in history] for history in case.histories]
    expected = {
        items[user][position]: list(pairwise(items[user][: position + 1]))[-window:]
        for user, history in enumerate(case.histories)
        for position, (_, split_of_item) in enumerate(history)
        if split_of_item == split and position > 0
    }
    found = []
    for indices, batch in batches:
        assert_well_formed(batch, case.sequences)
        assert 1 <= len(indices) <= batch_users
        for index, steps in zip(indices, steps_of(batch), strict=True):
            target = int(case.sequences.item[targets[index]])
            assert steps[-1][1] == target
            found.append((target, steps))
    assert len(found) == len(expected)
    assert dict(found) == expected


@settings(max_examples=25, deadline=None)
@given(case=cases(), batch_users=sizes)
def test_training_batches_name_the_users_of_their_histories(case: Case, batch_users: int) -> None:
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


def test_the_order_of_users_depends_on_the_seed() -> None:
    case = many_users()
    one, again, other = (all_steps(epoch(case, 8, 7, seed)) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_each_epoch_of_one_generator_has_a_new_order_of_users() -> None:
    case, generator = many_users(), np.random.default_rng(7)
    epochs = [training_batches(case.sequences, 8, 7, generator) for _ in range(2)]
    first, second = (all_steps(batch for _, batch in batches) for batches in epochs)
    assert first != second
    assert sorted(first) == sorted(second)


def test_no_targets_give_no_batches() -> None:
    case = many_users()
    assert list(target_batches(case.sequences, case.sequences.targets(TEST), 8, 7)) == []


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=20), parts=st.integers(1, 5))
def test_histories_are_dealt_once_and_no_part_exceeds_the_fewest_by_more_than_a_history(
    lengths: list[int], parts: int
) -> None:
    dealt = balanced(np.array(lengths), parts)
    assert sorted(history for part in dealt for history in part.tolist()) == list(range(len(lengths)))
    tokens = [sum(lengths[history] for history in part) for part in dealt]
    assert max(tokens) - min(tokens) <= max(lengths)
    assert all(part.tolist() == sorted(part.tolist()) for part in dealt)


@settings(max_examples=25, deadline=None)
@given(case=cases(), parts=st.integers(1, 3))
def test_the_parts_of_a_batch_have_its_histories(case: Case, parts: int) -> None:
    for _, batch in training_batches(case.sequences, 5, 4, np.random.default_rng(0)):
        whole = steps_of(batch)
        for histories in balanced(batch.offsets_B1.diff().numpy(), parts):
            if len(histories) == 0:
                continue
            part, tokens = histories_of(batch, histories)
            assert_well_formed(part, case.sequences)
            assert steps_of(part) == [whole[history] for history in histories]
            assert part.item_N.tolist() == batch.item_N[tokens].tolist()


@settings(max_examples=25, deadline=None)
@given(case=cases(), parts=st.integers(1, 4))
def test_parts_have_each_batch_of_targets_once(case: Case, parts: int) -> None:
    targets = case.sequences.targets(VALIDATION)
    whole = [indices.tolist() for indices, _ in target_batches(case.sequences, targets, 5, 2)]
    dealt = [
        [indices.tolist() for indices, _ in target_batches(case.sequences, targets, 5, 2, part, parts)]
        for part in range(parts)
    ]
    assert dealt == [whole[part::parts] for part in range(parts)]
