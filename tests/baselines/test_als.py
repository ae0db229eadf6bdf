"""ALS of the library implicit: its vectors and its ranks, compared with least squares by plain loops."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from small import random_sequences

from tapestry.baselines.als import REGULARIZATION, Als
from tapestry.baselines.ranks import rank_baseline
from tapestry.baselines.settings import BaselineSettings, PeerSettings
from tapestry.core.errors import TapestryError
from tapestry.core.splits import TEST
from tapestry.sequences.reader import Sequences

WIDTH = 4


def chosen(threads: int = 1) -> BaselineSettings:
    return BaselineSettings(True, 16, 5, threads, PeerSettings(width=WIDTH, epochs=5, seed=3))


def least_squares(of_others: Any, chosen: set[int]) -> Any:
    """The vector whose products with the rows of `of_others` are nearest to 1 for the chosen rows, else to 0."""
    left, right = REGULARIZATION * np.eye(WIDTH), np.zeros(WIDTH)
    for other, vector in enumerate(of_others):
        left += np.outer(vector, vector)
        right += vector if other in chosen else 0
    return np.linalg.solve(left, right)


def fitted(sequences: Sequences, settings: BaselineSettings) -> Als:
    pytest.importorskip("implicit", reason="implicit not installed: see make peers")
    model = Als()
    model.fit(sequences, settings)
    return model


def test_the_item_vectors_are_those_of_least_squares_over_the_training_interactions() -> None:
    sequences = random_sequences(1, users=40)
    model = fitted(sequences, chosen())
    users: list[set[int]] = [set() for _ in range(sequences.items)]
    for row in np.flatnonzero(sequences.split == 0):
        users[sequences.item[row]].add(int(sequences.user[row]))
    expected = [least_squares(model.user_vectors, of_item) for of_item in users]
    np.testing.assert_allclose(model.item_vectors, expected, rtol=2e-3, atol=2e-4)
    assert np.abs(model.item_vectors).max() > 0.1


def test_a_target_is_ranked_by_the_vector_of_its_whole_history() -> None:
    sequences = random_sequences(2, users=40)
    model = fitted(sequences, chosen())
    targets = sequences.targets(TEST)
    ranks = rank_baseline("als", model, sequences, targets, chosen())
    for index, target in enumerate(targets.tolist()):
        history = set(sequences.item[sequences.offsets[sequences.user[target]] : target].tolist())
        scores = model.item_vectors @ least_squares(model.item_vectors, history)
        item, domain = int(sequences.item[target]), sequences.domains[sequences.domain[target]]
        rivals = [i for i in range(domain.start, domain.end) if i != item and i not in history]
        assert ranks.candidates[index] == len(rivals) + 1
        surely, possibly = (sum(scores[i] > scores[item] + e for i in rivals) for e in (1e-6, -1e-6))
        assert surely < ranks.rank[index] <= possibly + 1


def test_the_same_seed_gives_the_same_vectors_with_any_number_of_threads() -> None:
    sequences = random_sequences(4, users=40)
    one, two = (fitted(sequences, chosen(threads)) for threads in (1, 2))
    assert one.item_vectors.tobytes() == two.item_vectors.tobytes()


def test_without_implicit_the_error_names_the_package_and_the_command() -> None:
    hidden = {"implicit": None, "implicit.cpu": None, "implicit.cpu.als": None}
    with (
        patch.dict("sys.modules", hidden),
        pytest.raises(TapestryError, match="als: the package implicit isn't installed; run `make peers`"),
    ):
        Als().fit(random_sequences(1), chosen())
