"""Each private operator of torch, called with a known answer. A test that fails names the operator that changed."""

from __future__ import annotations

import math

import pytest
import torch

from tapestry.model.kernels import aten


@pytest.mark.parametrize("in_place", [False, True])
def test_softmax_backward_data(in_place: bool) -> None:
    """dS = P ⊙ (dP − Σ dP ⊙ P), with Σ dP ⊙ P = 3 in the first row and 6 in the second."""
    p = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    dp = torch.tensor([[6.0, 2.0], [4.0, 8.0]])
    ds = aten.softmax_backward(dp, p, -1, out=dp if in_place else None)
    assert ds.tolist() == [[0.75, -0.75], [-1.0, 1.0]]
    assert (ds.data_ptr() == dp.data_ptr()) is in_place


def test_softmax_backward_data_over_a_dimension_that_is_not_the_last() -> None:
    p = torch.tensor([[[0.25], [0.75]], [[0.5], [0.5]]])
    dp = torch.tensor([[[6.0], [2.0]], [[4.0], [8.0]]])
    assert aten.softmax_backward(dp, p, 1).flatten().tolist() == [0.75, -0.75, -1.0, 1.0]


def test_embedding_dense_backward() -> None:
    """Row 0 has no gradient, row 1 one, and row 2 the sum of two."""
    gradient = torch.tensor([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]])
    summed = aten.embedding_backward(gradient, torch.tensor([2, 1, 2]), 4)
    assert summed.tolist() == [[0.0, 0.0], [10.0, 20.0], [101.0, 202.0], [0.0, 0.0]]


def test_scaled_dot_product_flash_attention_for_cpu() -> None:
    """Scores q·k are [0] for the first query and [log 1, log 3] for the second, so P = [1] and [1/4, 3/4]."""
    q = torch.tensor([5.0, 1.0]).view(1, 1, 2, 1)
    k = torch.tensor([0.0, math.log(3)]).view(1, 1, 2, 1)
    v = torch.tensor([4.0, 8.0]).view(1, 1, 2, 1)
    out, logsumexp = aten.causal_attention_cpu(q, k, v)
    torch.testing.assert_close(out.flatten(), torch.tensor([4.0, 7.0]))
    torch.testing.assert_close(logsumexp.flatten(), torch.tensor([0.0, math.log(4)]))


def test_scaled_dot_product_flash_attention_for_cpu_backward() -> None:
    """For dO = [0, 1]: dV = P, dP = V, dS = P ⊙ (dP − 7) = [−3/4, 3/4], dQ = dS K and dK = dS q."""
    q = torch.tensor([5.0, 1.0]).view(1, 1, 2, 1)
    k = torch.tensor([0.0, math.log(3)]).view(1, 1, 2, 1)
    v = torch.tensor([4.0, 8.0]).view(1, 1, 2, 1)
    dout = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1)
    dq, dk, dv = aten.causal_attention_cpu_backward(dout, q, k, v, *aten.causal_attention_cpu(q, k, v))
    torch.testing.assert_close(dq.flatten(), torch.tensor([0.0, 0.75 * math.log(3)]))
    torch.testing.assert_close(dk.flatten(), torch.tensor([-0.75, 0.75]))
    torch.testing.assert_close(dv.flatten(), torch.tensor([0.25, 0.75]))


def test_the_shapes_of_causal_attention_on_the_cpu() -> None:
    q, k, v = torch.randn(3, 1, 3, 5, 4)
    out, logsumexp = aten.causal_attention_cpu(q, k, v)
    assert (out.shape, logsumexp.shape) == ((1, 3, 5, 4), (1, 3, 5))
