"""Dropout: the share of entries that it drops, their independence, the scale of the others, and the seed."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tapestry.model.dropout import Dropout

RATES = [0.1, 0.2, 0.5, 0.9]
LARGE = 1 << 20


def dropped(rate: float, x: Tensor, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    result: Tensor = Dropout(rate).train()(x)
    return result


@pytest.mark.parametrize("rate", RATES)
def test_the_share_of_kept_entries_is_one_minus_the_rate(rate: float) -> None:
    kept = dropped(rate, torch.ones(LARGE)) != 0
    sigma = math.sqrt(rate * (1 - rate) / LARGE)
    assert abs(float(kept.double().mean()) - (1 - rate)) < 5 * sigma
    for index in range(4):  # of an entry in a 64-bit random number
        assert abs(float(kept[index::4].double().mean()) - (1 - rate)) < 5 * 2 * sigma


@pytest.mark.parametrize("rate", RATES)
def test_kept_entries_are_divided_by_their_share_and_the_others_are_zero(rate: float) -> None:
    x = 1 + torch.rand(LARGE // 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = dropped(rate, x)
    kept = y != 0
    assert 0 < kept.sum() < len(x)
    assert ((x[kept] / y[kept]) - (1 - rate)).abs().max() <= 2**-16


@pytest.mark.parametrize("rate", RATES)
def test_the_gradient_is_the_mask_times_the_scale(rate: float) -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(2, 1001, generator=generator).unbind()
    x.requires_grad_()
    scaled_mask = dropped(rate, torch.ones(1001))
    y = dropped(rate, x)
    assert torch.equal(y, x * scaled_mask)
    (gradient,) = torch.autograd.grad(y, x, weight)
    assert torch.equal(gradient, weight * scaled_mask)


def test_the_mask_follows_the_seed() -> None:
    x = torch.ones(1000)
    assert torch.equal(dropped(0.5, x, seed=3), dropped(0.5, x, seed=3))
    assert not torch.equal(dropped(0.5, x, seed=3), dropped(0.5, x, seed=4))


def test_each_call_draws_another_mask() -> None:
    module, x = Dropout(0.5).train(), torch.ones(1000)
    assert not torch.equal(module(x), module(x))


@pytest.mark.parametrize("rate", [0.2, 0.5])
@pytest.mark.parametrize("shift", [1, 2, 3, 4])
def test_neighbouring_entries_are_independent(rate: float, shift: int) -> None:
    kept = (dropped(rate, torch.ones(LARGE)) != 0).double() - (1 - rate)
    product = kept[:-shift] * kept[shift:] / (rate * (1 - rate))  # of mean 0 and variance 1 where independent
    for index in range(4):  # of an entry in a 64-bit random number
        products = product[index::4]
        assert abs(float(products.mean())) < 5 / math.sqrt(len(products))


@pytest.mark.parametrize("module", [Dropout(0.5).eval(), Dropout(0.0).train(), Dropout(0.0).eval()])
def test_evaluation_and_rate_zero_change_nothing(module: Dropout) -> None:
    x = torch.randn(1000)
    assert torch.equal(module(x), x)


@settings(max_examples=25, deadline=None)
@given(shape=st.lists(st.integers(0, 7), max_size=3), transposed=st.booleans(), double=st.booleans())
def test_tensors_of_any_shape_are_dropped_entry_by_entry(shape: list[int], transposed: bool, double: bool) -> None:
    x = 1 + torch.rand(shape, dtype=torch.float64 if double else torch.float32)
    if transposed:
        x = x.permute(tuple(reversed(range(x.ndim))))
    y = dropped(0.25, x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert ((y == 0) | torch.isclose(y, x / 0.75)).all()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_every_entry_can_be_dropped_where_the_last_random_number_is_not_used_whole(size: int) -> None:
    module, x, draws = Dropout(0.25).train(), torch.ones(size), 2000
    torch.manual_seed(0)
    share = torch.stack([module(x) != 0 for _ in range(draws)]).double().mean(0)
    assert (share - 0.75).abs().max() < 5 * math.sqrt(0.25 * 0.75 / draws)


def test_a_rate_next_to_one_drops_almost_all_and_stays_finite() -> None:
    out = Dropout(0.999999).train()(torch.ones(1000))
    assert out.isfinite().all()
    assert out.count_nonzero() < 10
