"""Item embeddings from co-occurrence, compared with plain loops and with a dense decomposition."""

from __future__ import annotations

import dataclasses
import math

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from small import WHOLE_MODEL, random_sequences, sequences_of

from tapestry.core.splits import TRAIN
from tapestry.parameters import Parameters
from tapestry.sequences import cooccurrence
from tapestry.sequences.reader import Sequences
from tapestry.training import initialization
from tapestry.training.initialization import cooccurrence_embedding, ppmi
from tapestry.training.loop import train


def ppmi_by_loops(sequences: Sequences) -> np.ndarray:
    """P of the module's equations, entry by entry."""
    users: list[set[int]] = [set() for _ in sequences.user_id]
    for user, item, split in zip(sequences.user, sequences.item, sequences.split, strict=True):
        if split == TRAIN:
            users[user].add(int(item))
    common = np.zeros((sequences.items, sequences.items))
    for items in users:
        for i in items:
            for j in items - {i}:
                common[i, j] += 1 / math.log2(2 + len(items))
    sums, result = common.sum(1), np.zeros_like(common)
    for i, j in zip(*np.nonzero(common), strict=True):
        result[i, j] = max(0.0, math.log(common[i, j] * common.sum() / (sums[i] * sums[j])))
    return result


@hypothesis.settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), block=st.sampled_from([1, 7, 1024]))
def test_ppmi_equals_plain_loops(seed: int, block: int) -> None:
    """A user may have an item twice, and validation and test interactions don't count."""
    sequences = random_sequences(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cooccurrence, "_ITEMS", block)
        found = ppmi(sequences).toarray()
    np.testing.assert_allclose(found, ppmi_by_loops(sequences), rtol=1e-12, atol=1e-12)


def test_a_row_keeps_its_largest_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = random_sequences(3)
    whole = ppmi_by_loops(sequences)
    monkeypatch.setattr(initialization, "_NEIGHBOURS", 2)
    found = ppmi(sequences).toarray()
    for row, expected in zip(found, whole, strict=True):
        kept = sorted(range(len(row)), key=lambda item: (-round(expected[item], 9), item))[:2]
        np.testing.assert_allclose(row, [value if i in kept else 0 for i, value in enumerate(expected)], atol=1e-9)


def test_the_factor_is_that_of_a_dense_decomposition() -> None:
    """Also where the matrix has negative eigenvalues, and with fewer columns than its rank."""
    generator = np.random.default_rng(0)
    axes, _ = np.linalg.qr(generator.standard_normal((40, 40)))
    eigenvalues = np.array([9, -7, 5, -4, 3, *np.full(35, 0.05)])
    dense = axes @ np.diag(eigenvalues) @ axes.T
    expected = axes[:, :5] * np.sqrt(np.abs(eigenvalues[:5]))
    expected *= np.where(expected.sum(0) < 0, -1, 1)
    found = initialization._factor(sparse.csr_array(dense), 5, np.random.default_rng(1)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_items_of_the_same_users_start_close_also_across_domains() -> None:
    """Two groups of users and of 20 items, half of them of each domain; item 40 is nobody's in training."""
    groups = [[*range(10), *range(20, 30)], [*range(10, 20), *range(30, 40)]]
    draws = np.random.default_rng(0)
    histories = [[*draws.choice(groups[user % 2], 12, replace=False).tolist(), 40, 40] for user in range(200)]
    sequences = sequences_of(histories, [0] * 20 + [1] * 21)
    embedding = cooccurrence_embedding(sequences, 2, 0.02, 7)
    unit = torch.nn.functional.normalize(embedding, dim=1)
    cosine = unit @ unit.T
    for group, other in (groups, reversed(groups)):
        assert cosine[group][:, group].min() > 0.9
        assert cosine[group][:, other].max() < 0.3
    assert embedding[:40].norm(dim=1).numpy() == pytest.approx(0.02 * math.sqrt(2), rel=0.4)  # and the noise
    assert 0 < embedding[40].norm() < 0.1  # noise alone
    assert torch.equal(embedding, cooccurrence_embedding(sequences, 2, 0.02, 7))
    assert not torch.equal(embedding, cooccurrence_embedding(sequences, 2, 0.02, 8))


def test_more_columns_than_items_are_noise() -> None:
    sequences = sequences_of([[0, 1, 2, 0, 1]] * 4, [0, 0, 1])
    embedding = cooccurrence_embedding(sequences, 16, 0.02, 7)
    assert embedding.shape == (3, 16)
    assert embedding[:, 3:].abs().max() < 0.02


def test_a_training_starts_from_it(parameters: Parameters) -> None:
    sequences = random_sequences(0)
    settings = dataclasses.replace(
        parameters.train, epochs=1, batch_users=1000, threads=1, learning_rate=1e-12, init="cooccurrence"
    )
    figures = {"ndcg_10": 0.1, "hr_10": 0.0, "hr_100": 0.0, "mrr": 0.0}
    model = train(sequences, WHOLE_MODEL, settings, lambda _: figures, lambda _: None).model
    expected = cooccurrence_embedding(sequences, WHOLE_MODEL.width, 0.02, settings.seed)
    torch.testing.assert_close(model.item.weight.detach(), expected, rtol=0, atol=1e-9)
