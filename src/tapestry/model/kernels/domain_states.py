"""DDSR's kernel: attention of each token over the last token of each domain, in O(N·D) (arXiv 2508.20945).

The state of domain d at token i is d's last token at or before i in the same history. So a token is the state of its
own domain, and a domain that the history hasn't reached yet has no state. Example, domains of one history:

    token            0  1  2  3
    domain           A  B  A  B
    state of A       0  0  2  2
    state of B       –  1  1  3

Forward, for token i and each head, with s = last(i, d) the token that is the state of d at i:

    S_id = q_i · k_s / √E,  −∞ where d has no state      P = softmax over d of S      O_i = Σ_d P_id v_s

Backward, where the readers of s are the pairs (i, d) with last(i, d) = s:

    dP_id = dO_i · v_s                                    dQ_i = Σ_d dS_id k_s / √E
    dS    = P ⊙ (dP − Σ_d dP ⊙ P)                         dK_s = Σ over readers (i, d) of s of dS_id q_i / √E
                                                          dV_s = Σ over readers (i, d) of s of P_id dO_i

Keys and values are projected once a token, before this kernel. All sums are weighted sums of gathered rows, which
torch computes (`embedding_bag`) without a tensor of shape (N, D, H, E). dK and dV would be a scatter, which is slow;
`find_states` lists the readers of each token, so that they are sums of gathered rows too.

Suffixes: N tokens, D domains, H heads, E width of a head, M = N·H pairs (token, head), T tokens of a block, P reads:
triples (token i, domain d, head) where d has a state at i. The rows of a (N, 3, H, E) projection are numbered
(3·token + part)·H + head, with part 0 for the query, 1 for the key and 2 for the value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tapestry.core.arrays import Integers
from tapestry.model.kernels.aten import softmax_backward

_BLOCK = 4096  # tokens whose dot products are computed at a time: their keys or values stay in the CPU's cache


@dataclass(frozen=True, eq=False)
class States:
    """Which token is the state of each domain at each token, and by which tokens each state is read.

    last_DN: the token that is the state of the domain; 0 where there is none.
    unseen_ND: True where there is none.
    query_row_NHD: row of the query of that token in a projection. Its key is H rows further, its value 2·H.
    read_P: the reads, as flat indices into (N, D, H), grouped by the pair (token, head) that is read.
    read_offsets_M1: the reads of pair m are [read_offsets_M1[m], read_offsets_M1[m + 1]) of read_P.
    reader_P: the pair (token, head) that reads, token·H + head.
    reader_query_row_P: row of its query in a projection.
    """

    last_DN: Tensor
    unseen_ND: Tensor
    query_row_NHD: Tensor
    read_P: Tensor
    read_offsets_M1: Tensor
    reader_P: Tensor
    reader_query_row_P: Tensor


@dataclass(frozen=True, eq=False)
class Reads:
    """The same for the kernels in Triton (`triton_states.py`), without a list of all reads.

    A token is read from its own time until the next token of its domain, or the end of its history: by a range of the
    batch.

    last_ND: the token that is the state of each domain at each token; -1 where there is none. order_N: index in the
    batch of each token; the first one that reads it. until_N: index in the batch after the last one that reads it.
    inverse_N: the token at each index in the batch.
    """

    last_ND: Tensor
    order_N: Tensor
    until_N: Tensor
    inverse_N: Tensor

    @property
    def unseen_ND(self) -> Tensor:  # noqa: N802 (shape suffix)
        """True where there is no state."""
        return self.last_ND < 0


def attend_states(qkv_N3HE: Tensor, states: States | Reads) -> Tensor:
    """Attention of each token over the states of the domains: O of this module's equations. (N, H, E)"""
    if isinstance(states, Reads):
        from tapestry.model.kernels.triton_states import attend_reads  # Triton comes with torch for CUDA only

        return attend_reads(qkv_N3HE, states)
    out_NHE: Tensor = _StateAttention.apply(qkv_N3HE, states)  # type: ignore[no-untyped-call]
    return out_NHE


def attend_states_reference(qkv_N3HE: Tensor, states: States | Reads) -> Tensor:
    """`attend_states` in plain torch: keys and values gathered to (N, D, H, E), and gradients by autograd."""
    q_NHE, k_NHE, v_NHE = qkv_N3HE.unbind(1)
    last_ND = states.last_ND.clamp(min=0) if isinstance(states, Reads) else states.last_DN.T
    k_NDHE, v_NDHE = (x_NHE.index_select(0, last_ND.flatten()).unflatten(0, last_ND.shape) for x_NHE in (k_NHE, v_NHE))
    s_NDH = (q_NHE[:, None] * k_NDHE).sum(-1) * q_NHE.shape[-1] ** -0.5
    p_NDH = torch.softmax(s_NDH.masked_fill(states.unseen_ND[:, :, None], float("-inf")), 1)
    out_NHE: Tensor = (p_NDH[..., None] * v_NDHE).sum(1)
    return out_NHE


class _StateAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv_N3HE: Tensor, states: States) -> Tensor:
        tokens, _, heads, width = qkv_N3HE.shape
        s_NDH = _dot_products(qkv_N3HE[:, 0], qkv_N3HE[:, 1], states).mul_(width**-0.5)
        p_NDH = torch.softmax(s_NDH.masked_fill_(states.unseen_ND[:, :, None], float("-inf")), 1)
        ctx.save_for_backward(qkv_N3HE, p_NDH)
        ctx.states = states
        return _sum_over_domains(p_NDH, qkv_N3HE, 2, states).view(tokens, heads, width)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        qkv_N3HE, p_NDH = ctx.saved_tensors
        states: States = ctx.states
        width = qkv_N3HE.shape[-1]
        dout_NHE = grads[0].contiguous()
        dp_NDH = _dot_products(dout_NHE, qkv_N3HE[:, 2], states)
        ds_NDH = softmax_backward(dp_NDH, p_NDH, 1).mul_(width**-0.5)
        dq_ME = _sum_over_domains(ds_NDH, qkv_N3HE, 1, states)
        dk_ME = _sum_over_readers(ds_NDH, qkv_N3HE.view(-1, width), states.reader_query_row_P, states)
        dv_ME = _sum_over_readers(p_NDH, dout_NHE.view(-1, width), states.reader_P, states)
        dqkv_N3HE = torch.empty_like(qkv_N3HE)
        for part, gradient_ME in enumerate((dq_ME, dk_ME, dv_ME)):
            dqkv_N3HE[:, part] = gradient_ME.view_as(dout_NHE)
        return dqkv_N3HE, None


def _dot_products(x_NHE: Tensor, y_NHE: Tensor, states: States) -> Tensor:
    """x_i · y_s, with s the state of each domain at i; any number where there is no state. (N, D, H)"""
    domains, tokens = states.last_DN.shape
    out_NDH = x_NHE.new_empty(tokens, domains, x_NHE.shape[1])
    for start in range(0, tokens, _BLOCK):
        block = slice(start, start + _BLOCK)
        for domain, last_T in enumerate(states.last_DN[:, block]):
            torch.sum(y_NHE.index_select(0, last_T).mul_(x_NHE[block]), -1, out=out_NDH[block, domain])
    return out_NDH


def _sum_over_domains(weight_NDH: Tensor, qkv_N3HE: Tensor, part: int, states: States) -> Tensor:
    """Σ_d weight · the state's query (part 0), key (1) or value (2), for each token and head. (M, E)"""
    heads, width = qkv_N3HE.shape[2:]
    query_row_MD = states.query_row_NHD.flatten(0, 1)
    weight_MD = weight_NDH.transpose(1, 2).reshape(query_row_MD.shape)
    rows = qkv_N3HE.view(-1, width)[part * heads :]  # so that a query's row number finds the row of that part
    return F.embedding_bag(query_row_MD, rows, per_sample_weights=weight_MD.to(rows.dtype), mode="sum")


def _sum_over_readers(weight_NDH: Tensor, rows: Tensor, row_P: Tensor, states: States) -> Tensor:
    """Σ over the reads of a token of weight · the reader's row, for each token and head. (M, E)

    Args:
        rows: (rows, E).
        row_P: the reader's row of each read.
    """
    weight_P = weight_NDH.view(-1).index_select(0, states.read_P).to(rows.dtype)
    return F.embedding_bag(
        row_P, rows, states.read_offsets_M1, per_sample_weights=weight_P, mode="sum", include_last_offset=True
    )


def last_of_domains(
    domain_N: Integers, position_N: Integers, order_N: Integers, inverse_N: Integers, domains: int
) -> Integers:
    """The last token of each domain at or before each token of the same history; -1 where there is none. (N, D)

    The tokens of the result are numbered as the network orders them.

    Args:
        domain_N, position_N: domain, and position in the history, of each token of the batch, in the batch's order.
        order_N: index in the batch of each token in the network's order. inverse_N: its inverse permutation.
        domains: D.
    """
    index_N1 = np.arange(len(domain_N))[:, None]
    last_ND = np.maximum.accumulate(np.where(domain_N[:, None] == np.arange(domains), index_N1, -1), axis=0)
    unseen_ND = last_ND < index_N1 - position_N[:, None]  # before the first token of the history
    return np.where(unseen_ND, -1, inverse_N[last_ND])[order_N]


def find_states(last_or_none_ND: Integers, heads: int) -> States:
    """The states of packed histories, from `last_of_domains`, for H = `heads`."""
    domains, head_H = last_or_none_ND.shape[1], np.arange(heads)
    unseen_ND = last_or_none_ND < 0
    last_ND = np.where(unseen_ND, 0, last_or_none_ND)
    # The reads of one head, R of them, as flat indices into (N, D), grouped by the token that is read.
    state_or_none = last_or_none_ND.ravel()
    read_R = np.argsort(state_or_none, kind="stable")[np.count_nonzero(state_or_none < 0) :]
    count_N = np.bincount(last_ND[~unseen_ND], minlength=len(last_ND))
    # For all heads the groups are (token, head): the group of a token, with c reads from s, becomes H groups of c
    # reads from s·H. Read r of the token's group goes to s·H + c·head + r.
    start_N = np.cumsum(count_N) - count_N
    within_R = np.arange(len(read_R)) - np.repeat(start_N, count_N)
    to_RH = (
        np.repeat(start_N * heads, count_N)[:, None] + np.repeat(count_N, count_N)[:, None] * head_H + within_R[:, None]
    )
    read_P, reader_P, reader_query_row_P = (np.empty(to_RH.size, dtype=np.int64) for _ in range(3))
    read_P[to_RH] = read_R[:, None] * heads + head_H
    reader_P[to_RH] = (read_R // domains)[:, None] * heads + head_H
    reader_query_row_P[to_RH] = (read_R // domains)[:, None] * (3 * heads) + head_H
    arrays = (
        np.ascontiguousarray(last_ND.T),
        unseen_ND,
        last_ND[:, None] * (3 * heads) + head_H[:, None],
        read_P,
        np.concatenate([[0], np.cumsum(np.repeat(count_N, heads))]),
        reader_P,
        reader_query_row_P,
    )
    return States(*(torch.from_numpy(array) for array in arrays))


def find_reads(
    last_or_none_ND: Integers,
    domain_N: Integers,
    position_N: Integers,
    offsets_B1: Integers,
    order_N: Integers,
    inverse_N: Integers,
) -> Reads:
    """The states of packed histories for the kernels in Triton. The arguments are those of `last_of_domains`.

    Args:
        last_or_none_ND: by `last_of_domains`.
        offsets_B1: where histories start and end in the batch.
    """
    until_N = np.repeat(offsets_B1[1:], np.diff(offsets_B1))[order_N]
    index = np.flatnonzero(position_N > 0)  # in the batch
    previous = last_or_none_ND[inverse_N[index - 1], domain_N[index]]  # the last token of the same domain before it
    until_N[previous[previous >= 0]] = index[previous >= 0]
    arrays = (last_or_none_ND, order_N, until_N, inverse_N)
    return Reads(*(torch.from_numpy(array.astype(np.int32)) for array in arrays))
