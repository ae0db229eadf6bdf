"""Neighbours of items, and what they add to scores, against plain loops."""

from __future__ import annotations

import math
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import naive_similarity, neighbour_addition, random_sequences, sequences_of

from tapestry.core.splits import TRAIN
from tapestry.parallel.shard import WHOLE, Shard
from tapestry.sequences import cooccurrence
from tapestry.sequences.cooccurrence import neighbours_of
from tapestry.sequences.reader import Sequences


def table_of(sequences: Sequences) -> list[list[tuple[int, float]]]:
    """The neighbours of each item with their similarities."""
    found = neighbours_of(sequences)
    rows = zip(found.item_IK.tolist(), found.similarity_IK.tolist(), strict=True)
    return [[(item, value) for item, value in zip(*row, strict=True) if item >= 0] for row in rows]


def test_similarity_of_a_hand_computed_case() -> None:
    # Items 0, 1, 2 are of one domain and 3 of another; of each history the first items are training interactions.
    sequences = sequences_of([[0, 1, 3, 2, 2], [0, 1, 2, 2]], [0, 0, 0, 1])
    three, two = 1 / math.log2(5), 1 / math.log2(4)  # weights of users of three items and of two
    total = [2 * three + two, 2 * three + two, 0.0, 2 * three]
    mean = sum(total) / 4
    table = table_of(sequences)
    assert [[item for item, _ in row] for row in table] == [[1], [0], [], []]
    for row in table[:2]:
        assert row[0][1] == pytest.approx(mean * (three + two) / total[0])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), kept=st.integers(1, 8), longest=st.integers(4, 25))
def test_an_item_has_its_most_similar_items_of_its_domain(seed: int, kept: int, longest: int) -> None:
    sequences = random_sequences(seed, longest=longest)
    similarity = naive_similarity(sequences)
    with patch.object(cooccurrence, "NEIGHBOURS_AN_ITEM", kept), patch.object(cooccurrence, "_ITEMS", 7):
        found = table_of(sequences)
    for item, row in enumerate(found):
        others = {other: value for (one, other), value in similarity.items() if one == item}
        values = sorted(others.values(), reverse=True)[:kept]
        assert [value for _, value in row] == pytest.approx(values)
        assert all(value == pytest.approx(others[other]) for other, value in row)
        assert len({other for other, _ in row}) == len(row)


def test_of_equally_similar_items_the_lower_number_comes_first() -> None:
    sequences = sequences_of([[3, 0, 2, 1, 4, 4]], [0] * 5)
    with patch.object(cooccurrence, "NEIGHBOURS_AN_ITEM", 2):
        assert neighbours_of(sequences).item_IK.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1], [-1, -1]]


def test_only_training_interactions_make_neighbours() -> None:
    sequences = random_sequences(1)
    training = sequences.split == TRAIN
    other_item = np.where(training, sequences.item, sequences.domains[0].start).astype(np.int32)
    changed = Sequences(**{**vars(sequences), "item": other_item})
    assert table_of(changed) == table_of(sequences)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    lengths=st.lists(st.integers(0, 50), min_size=1, max_size=4),
    processes=st.integers(1, 3),
    weight=st.sampled_from([0.1, 1.0]),
)
def test_what_neighbours_add_equals_plain_loops(seed: int, lengths: list[int], processes: int, weight: float) -> None:
    sequences = random_sequences(seed)
    generator = np.random.default_rng(seed)
    domain = sequences.domains[generator.integers(3)]
    histories = [generator.integers(domain.start, domain.end, length) for length in lengths]
    history = np.repeat(np.arange(len(lengths)), lengths), np.concatenate(histories)
    neighbours, similarity = neighbours_of(sequences), naive_similarity(sequences)
    found: dict[tuple[int, int], float] = {}
    for index in range(processes):  # each scores its shard of the domain's items, in two slices
        shard = WHOLE if processes == 1 else Shard(index, processes)
        local = shard.local_slice(domain.start, domain.end)
        middle = int(generator.integers(local.start, local.stop + 1))
        for items in (slice(local.start, middle), slice(middle, local.stop)):
            numbers = shard.numbers(items)
            place, value = neighbours.added(weight, history, shard.rows(items))
            row, column = np.divmod(place, max(len(numbers), 1))
            assert (np.diff(place) > 0).all()
            found |= dict(zip(zip(row.tolist(), numbers[column].tolist(), strict=True), value.tolist(), strict=True))
    for request, before in enumerate(histories):
        for item in range(domain.start, domain.end):
            added = neighbour_addition(similarity, sequences, before.tolist(), item, weight)
            assert found.get((request, item), 0.0) == pytest.approx(added, rel=1e-6)
            assert added < weight
