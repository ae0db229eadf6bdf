"""Auxiliary targets against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import random_sequences, sequences_of

from tapestry.core.arrays import Integers
from tapestry.sequences.batches import training_histories
from tapestry.sequences.reader import Sequences
from tapestry.training.auxiliary import Draw, next_items, next_of_each_domain


def tokens_of(sequences: Sequences, window: int) -> tuple[Integers, Integers]:
    """The interaction of each training token, and the end of its user's training interactions."""
    starts, ends = training_histories(sequences, window)
    index = [range(start, end) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    end = [end + 1 for end, part in zip(ends.tolist(), index, strict=True) for _ in part]
    return np.array([i for part in index for i in part], dtype=np.int64), np.array(end, dtype=np.int64)


def all_of(sequences: Sequences, kind: str, index: int, end: int) -> set[int]:
    """The auxiliary targets of one token."""
    later = range(index + 2, end)
    if kind == "items":
        return set(later[:3])
    following = int(sequences.domain[index + 1])
    firsts: dict[int, int] = {}
    for other in later:
        firsts.setdefault(int(sequences.domain[other]), other)
    return {other for domain, other in firsts.items() if domain != following}


def pairs(drawn: tuple[Integers, Integers]) -> list[tuple[int, int]]:
    return list(zip(*(part.tolist() for part in drawn), strict=True))


def draw_of(kind: str, sequences: Sequences) -> Draw:
    return next_of_each_domain(sequences) if kind == "domains" else next_items


@pytest.mark.parametrize("kind", ["domains", "items"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), domains=st.integers(1, 4), window=st.integers(1, 20))
def test_with_probability_1_every_auxiliary_target_is_drawn_once(
    kind: str, seed: int, domains: int, window: int
) -> None:
    sequences = random_sequences(seed, domains=domains)
    index, end = tokens_of(sequences, window)
    drawn = pairs(draw_of(kind, sequences)(index, end, 1.0, np.random.default_rng(seed)))
    expected = {
        (token, target)
        for token, (i, last) in enumerate(zip(index.tolist(), end.tolist(), strict=True))
        for target in all_of(sequences, kind, i, last)
    }
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == expected
    assert (sequences.split[[target for _, target in drawn]] == 0).all()


def test_a_hand_computed_case() -> None:
    """Domains A B A C B; the last two of seven are the targets of validation and test."""
    sequences = sequences_of([[0, 2, 1, 4, 3, 0, 4]], [0, 0, 1, 1, 2])
    index, end = tokens_of(sequences, 64)
    drawn = pairs(next_of_each_domain(sequences)(index, end, 1.0, np.random.default_rng(0)))
    assert sorted(drawn) == [(0, 2), (0, 3), (1, 3), (1, 4), (2, 4)]
    assert sorted(pairs(next_items(index, end, 1.0, np.random.default_rng(0)))) == [
        (0, 2),
        (0, 3),
        (0, 4),
        (1, 3),
        (1, 4),
        (2, 4),
    ]


@pytest.mark.parametrize("kind", ["domains", "items"])
def test_the_rate_is_the_share_that_is_drawn(kind: str) -> None:
    sequences = random_sequences(3, users=400, longest=30)
    index, end = tokens_of(sequences, 64)
    draw = draw_of(kind, sequences)
    everything = set(pairs(draw(index, end, 1.0, np.random.default_rng(0))))
    drawn = pairs(draw(index, end, 0.3, np.random.default_rng(0)))
    assert set(drawn) < everything
    assert len(drawn) / len(everything) == pytest.approx(0.3, abs=0.02)
    assert pairs(draw(index, end, 0.0, np.random.default_rng(0))) == []
