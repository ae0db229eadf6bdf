"""DDSR: attention of each position over the last state of each domain, O(D·n) (arXiv 2508.20945).

Keys and values are projected once a token, then gathered. Weighted sums of gathered rows are sums of bags of
rows, which torch computes without an (N, D, C) tensor and, turned round, without a scatter: the backward pass
sums for each token the places that read it.

Suffixes: N tokens, D domains, H heads, C = state_dim, E = C / H, K model width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tapestry.model.kernels.domain_states import States

_ROWS = 4096  # tokens whose products are computed at a time, in cache


class DomainStateAttention(nn.Module):
    """Queries, keys and values are C-wide projections of the layer's normalised input.

    The state of a domain at position i is that of its last token at or before i: a position's own domain is
    itself; domains not seen yet are masked.
    """

    def __init__(self, width: int, state_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * state_dim)
        self.output = nn.Linear(state_dim, width)

    def forward(self, hidden_NK: Tensor, states: States) -> Tensor:
        """C_i for each token, (N, K)."""
        qkv_N3HE = self.project(hidden_NK).unflatten(-1, (3, self.heads, -1))
        out_NHE: Tensor = _StateAttention.apply(qkv_N3HE, states)  # type: ignore[no-untyped-call]
        output_NK: Tensor = self.output(out_NHE.flatten(1))
        return output_NK


class _StateAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv_N3HE: Tensor, states: States) -> Tensor:
        tokens, _, heads, width = qkv_N3HE.shape
        scores_NDH = _products(qkv_N3HE[:, 0], qkv_N3HE[:, 1], states).mul_(width**-0.5)
        p_NDH = torch.softmax(scores_NDH.masked_fill_(states.none_ND[:, :, None], float("-inf")), 1)
        ctx.save_for_backward(qkv_N3HE, p_NDH)
        ctx.states = states
        return _read(p_NDH, qkv_N3HE, 2, states).view(tokens, heads, width)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        qkv_N3HE, p_NDH = ctx.saved_tensors
        states: States = ctx.states
        width = qkv_N3HE.shape[-1]
        grad_NHE = grads[0].contiguous()
        dp_NDH = _products(grad_NHE, qkv_N3HE[:, 2], states)
        ds_NDH = torch.ops.aten._softmax_backward_data(dp_NDH, p_NDH, 1, p_NDH.dtype).mul_(width**-0.5)
        grad_N3HE = torch.empty_like(qkv_N3HE)
        grad_N3HE[:, 0] = _read(ds_NDH, qkv_N3HE, 1, states).view_as(grad_NHE)
        grad_N3HE[:, 1] = _returned(ds_NDH, qkv_N3HE.view(-1, width), states.reader_qkv_P, states).view_as(grad_NHE)
        grad_N3HE[:, 2] = _returned(p_NDH, grad_NHE.view(-1, width), states.reader_P, states).view_as(grad_NHE)
        return grad_N3HE, None


def _products(x_NHE: Tensor, y_NHE: Tensor, states: States) -> Tensor:
    """x_i · y_j for the token j that holds each domain's state at i; those of none are to be masked. (N, D, H)"""
    domains, tokens = states.last_DN.shape
    out_NDH = x_NHE.new_empty(tokens, domains, x_NHE.shape[1])
    for start in range(0, tokens, _ROWS):
        rows = slice(start, start + _ROWS)
        for domain, last_N in enumerate(states.last_DN[:, rows]):
            torch.sum(y_NHE.index_select(0, last_N).mul_(x_NHE[rows]), -1, out=out_NDH[rows, domain])
    return out_NDH


def _read(weight_NDH: Tensor, qkv_N3HE: Tensor, part: int, states: States) -> Tensor:
    """Σ_d weight · the state's query (part 0), key or value, for each token and head. (N·H, E)"""
    heads, width = qkv_N3HE.shape[2:]
    bags = states.read_NHD.view(-1, weight_NDH.shape[1])
    weight = weight_NDH.transpose(1, 2).reshape(bags.shape)
    return F.embedding_bag(bags, qkv_N3HE.view(-1, width)[part * heads :], per_sample_weights=weight, mode="sum")


def _returned(weight_NDH: Tensor, rows: Tensor, readers_P: Tensor, states: States) -> Tensor:
    """Σ over the places that read a token's state of weight · the reader's row, for each head. (N·H, E)"""
    weight_P = weight_NDH.view(-1).index_select(0, states.place_P)
    return F.embedding_bag(
        readers_P, rows, states.place_ends_NH, per_sample_weights=weight_P, mode="sum", include_last_offset=True
    )
