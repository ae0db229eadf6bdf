"""Histories in the target's domain alone, and with other people's interactions in the other domains."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from small import random_sequences

from tapestry.core.splits import TEST, TRAIN, VALIDATION
from tapestry.sequences.reader import Sequences
from tapestry.studies.histories import exchanged, own_domain

SEEDS = st.integers(0, 10_000)
Row = tuple[int, int, int]  # item, domain, timestamp


def rows_of(sequences: Sequences, start: int, end: int) -> list[Row]:
    columns = (sequences.item, sequences.domain, sequences.timestamp)
    return list(zip(*(column[start:end].tolist() for column in columns), strict=True))


def users_of(sequences: Sequences) -> list[tuple[str, list[Row], list[int]]]:
    """Each user's id, interactions and splits."""
    return [
        (str(user_id), rows_of(sequences, a, b), sequences.split[a:b].tolist())
        for user_id, (a, b) in zip(sequences.user_id, pairwise(sequences.offsets.tolist()), strict=True)
    ]


def targets_of(sequences: Sequences) -> dict[tuple[str, int], tuple[Row, list[Row]]]:
    """(user, split) → the target and its history."""
    return {
        (name, splits[-1]): (rows[-1], rows[:-1])
        for name, rows, splits in users_of(sequences)
        if splits[-1] in (VALIDATION, TEST)
    }


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, domains=st.integers(1, 4))
def test_own_domain_leaves_the_interactions_in_the_targets_domain(seed: int, domains: int) -> None:
    sequences = random_sequences(seed, domains=domains)
    expected: dict[tuple[str, int], tuple[Row, list[Row]]] = {}
    training: list[list[Row]] = []
    for name, rows, splits in users_of(sequences):
        for index, split in enumerate(splits):
            own = [row for row in rows[:index] if row[1] == rows[index][1]]
            if split != TRAIN and own:
                expected[name, split] = (rows[index], own)
        for domain in range(domains):
            part = [row for row, split in zip(rows, splits, strict=True) if split == TRAIN and row[1] == domain]
            training += [part] if part else []
    found = own_domain(sequences)
    assert targets_of(found) == expected
    assert sorted(rows for _, rows, splits in users_of(found) if set(splits) == {TRAIN}) == sorted(training)
    assert all(set(splits[:-1]) == {3} for _, _, splits in users_of(found) if splits[-1] != TRAIN)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, domains=st.integers(2, 4), users=st.integers(2, 12))
def test_exchanged_keeps_the_own_domain_and_takes_all_else_from_others(seed: int, domains: int, users: int) -> None:
    sequences = random_sequences(seed, users=users, domains=domains)
    found = exchanged(sequences, seed)
    before = {name: (rows, splits) for name, rows, splits in users_of(sequences)}
    for (name, split), (target, history) in targets_of(found).items():
        rows, splits = before[name]
        index = splits.index(split)
        assert target == rows[index]
        own = [row for row in rows[:index] if row[1] == target[1]]
        assert [row for row in history if row[1] == target[1]] == own
        for domain in range(domains):
            taken = [row for row in history if row[1] == domain]
            if domain == target[1] or not taken:
                continue
            givers = [
                other
                for other, (of_other, _) in before.items()
                if [row for row in of_other if row[1] == domain and row[2] < target[2]] == taken
            ]
            assert givers
        assert [row[2] for row in history] == sorted(row[2] for row in history)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_exchanged_trains_on_every_training_interaction_once(seed: int) -> None:
    sequences = random_sequences(seed)
    found = exchanged(sequences, seed)

    def training(of: Sequences) -> list[Any]:
        rows = rows_of(of, 0, len(of.item))
        return sorted(row for row, split in zip(rows, of.split.tolist(), strict=True) if split == TRAIN)

    assert training(found) == training(sequences)
    assert np.array_equal(np.bincount(found.item[found.split == TRAIN], minlength=found.items), found.train_count)


def test_exchanged_histories_are_of_other_people_but_for_one_in_n() -> None:
    sequences = random_sequences(0, users=200, items=3000, longest=12)
    before = {name: set(rows) for name, rows, _ in users_of(sequences)}
    own = total = 0
    for (name, _), (target, history) in targets_of(exchanged(sequences, 1)).items():
        others = [row for row in history if row[1] != target[1]]
        own += sum(row in before[name] for row in others)
        total += len(others)
    assert total > 1000
    assert own / total < 0.05
