"""The private operators of torch that the kernels call. No other module names one.

torch may change a private operator in any release, without notice. They are as expected in torch 2.13, which
requirements.lock pins; pyproject.toml accepts torch from 2.11 and below 3. tests/model/test_aten.py calls each
operator here with a known answer, so a test that fails after an upgrade of torch says which operator changed.

Suffixes: B batch, H heads, L positions, E width of a head, N rows, K width, U rows of a table.
"""

from __future__ import annotations

import torch
from torch import Tensor


def softmax_backward(dp: Tensor, p: Tensor, dim: int, out: Tensor | None = None) -> Tensor:
    """Gradient of a softmax by its input: dS = P ⊙ (dP − Σ_dim dP ⊙ P), for P = softmax(S).

    Operator: `aten::_softmax_backward_data`.

    Args:
        dp: gradient by P.
        p: P, of the same shape and dtype.
        dim: the dimension over which P sums to 1.
        out: where to write dS. It may be `dp`, if `dim` is the last dimension.
    """
    operator = torch.ops.aten._softmax_backward_data
    ds: Tensor = operator(dp, p, dim, p.dtype) if out is None else operator.out(dp, p, dim, p.dtype, grad_input=out)
    return ds


def embedding_backward(grad_NK: Tensor, index_N: Tensor, rows: int) -> Tensor:
    """Gradient of `table_UK[index_N]` by the table of `rows` rows: row u is the sum of the `grad_NK` with index u.

    It sums in a fixed order, so results are the same in every run. Operator: `aten::embedding_dense_backward`.

    Returns:
        (U, K)
    """
    no_padding_index, scale_by_frequency = -1, False
    grad_UK: Tensor = torch.ops.aten.embedding_dense_backward(
        grad_NK, index_N, rows, no_padding_index, scale_by_frequency
    )
    return grad_UK


def causal_attention_cpu(q_BHLE: Tensor, k_BHLE: Tensor, v_BHLE: Tensor) -> tuple[Tensor, Tensor]:
    """softmax over { j ≤ i } of q_i · k_j, not scaled, applied to v. It doesn't store the probabilities.

    Operator: `aten::_scaled_dot_product_flash_attention_for_cpu`.

    Returns:
        The output (B, H, L, E), and log Σ_j exp(q_i · k_j) (B, H, L), which the backward pass reads.
    """
    out_BHLE, logsumexp_BHL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q_BHLE, k_BHLE, v_BHLE, 0.0, True, scale=1.0
    )
    return out_BHLE, logsumexp_BHL


def causal_attention_cpu_backward(
    dout_BHLE: Tensor, q_BHLE: Tensor, k_BHLE: Tensor, v_BHLE: Tensor, out_BHLE: Tensor, logsumexp_BHL: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `causal_attention_cpu` by q, k and v, each (B, H, L, E), from the gradient by its output.

    Operator: `aten::_scaled_dot_product_flash_attention_for_cpu_backward`.
    """
    dq_BHLE, dk_BHLE, dv_BHLE = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        dout_BHLE, q_BHLE, k_BHLE, v_BHLE, out_BHLE, logsumexp_BHL, 0.0, True, scale=1.0
    )
    return dq_BHLE, dk_BHLE, dv_BHLE
