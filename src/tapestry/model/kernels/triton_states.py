"""The CUDA kernel of DDSR, in Triton: attention of each token over the last token of each domain.

The equations are those of `tapestry.model.kernels.domain_states`. The forward kernel reads the states of a block of
tokens domain by domain; one backward kernel does the same for dq. The gradients of a state's key and value are sums
over the tokens that read it, one program a state, in the order of a list. So results are the same in every run, and
nothing of shape (N, D, H, E) is stored.

Suffixes: N tokens, D domains, H heads, E width of a head, R reads: pairs (token, domain) with a state. In kernels: I
tokens of a block, and WIDTH channels, E rounded up to a power of two. Exponents are to base 2.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tapestry.model.kernels.domain_states import Reads
from tapestry.model.kernels.triton_vectors import load_vectors, store_vectors

_LOG2_E = tl.constexpr(1.4426950408889634)
_ROWS, _READERS = 32, 16  # tokens of a block; readers of a state that are loaded at a time


def attend_reads(qkv_N3HE: Tensor, reads: Reads) -> Tensor:
    """`tapestry.model.kernels.domain_states.attend_states` by the kernels of this module. (N, H, E)"""
    out_NHE: Tensor = _StateAttention.apply(qkv_N3HE, reads)
    return out_NHE


class _StateAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv_N3HE: Tensor, reads: Reads) -> Tensor:
        tokens, _, heads, width = qkv_N3HE.shape
        qkv_N3HE = qkv_N3HE.contiguous()
        out_NHE = qkv_N3HE.new_empty(tokens, heads, width)
        total_NH = torch.empty(tokens, heads, dtype=torch.float32, device=qkv_N3HE.device)  # log Σ exp, to base 2
        domains = reads.last_ND.shape[1]
        _forward[(triton.cdiv(tokens, _ROWS), heads)](
            qkv_N3HE, out_NHE, total_NH, reads.last_ND, tokens, width**-0.5, domains, heads, width,
            WIDTH=triton.next_power_of_2(width), ROWS=_ROWS,
        )  # fmt: skip
        ctx.save_for_backward(qkv_N3HE, out_NHE, total_NH)
        ctx.reads = reads
        return out_NHE

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        qkv_N3HE, out_NHE, total_NH = ctx.saved_tensors
        reads: Reads = ctx.reads
        tokens, _, heads, width = qkv_N3HE.shape
        dout_NHE = grads[0].contiguous()
        dqkv_N3HE, delta_NH = torch.empty_like(qkv_N3HE), torch.empty_like(total_NH)
        domains, padded = reads.last_ND.shape[1], triton.next_power_of_2(width)
        _backward_queries[(triton.cdiv(tokens, _ROWS), heads)](
            qkv_N3HE, out_NHE, dout_NHE, dqkv_N3HE, total_NH, delta_NH, reads.last_ND, tokens, width**-0.5, domains,
            heads, width, WIDTH=padded, ROWS=_ROWS,
        )  # fmt: skip
        _backward_states[(tokens, heads)](
            qkv_N3HE, dout_NHE, dqkv_N3HE, total_NH, delta_NH, reads.order_N, reads.until_N, reads.inverse_N,
            width**-0.5, heads,
            width, WIDTH=padded, READERS=_READERS, num_warps=1,
        )  # fmt: skip
        return dqkv_N3HE, None


@triton.jit(do_not_specialize=["tokens"])
def _forward(
    qkv, out, log_total, last, tokens, scale, domains, heads, width, WIDTH: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    head = tl.program_id(1)
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid_I = i < tokens
    stride = 3 * heads * width
    q_base = qkv + head * width
    k_base = q_base + heads * width
    v_base = k_base + heads * width
    q = load_vectors(q_base, i, valid_I, stride, width, WIDTH).to(tl.float32) * (scale * _LOG2_E)
    total = tl.zeros([ROWS], tl.float32)
    highest = tl.full([ROWS], float("-inf"), tl.float32)
    mixed = tl.zeros([ROWS, WIDTH], tl.float32)
    for domain in range(domains):
        state = tl.load(last + i * domains + domain, mask=valid_I, other=-1)
        seen = state >= 0
        k = load_vectors(k_base, state, seen, stride, width, WIDTH).to(tl.float32)
        v = load_vectors(v_base, state, seen, stride, width, WIDTH).to(tl.float32)
        s = tl.where(seen, tl.sum(q * k, 1), float("-inf"))
        new_highest = tl.maximum(highest, s)
        offset = tl.where(new_highest == float("-inf"), 0.0, new_highest)  # no state seen yet
        p = tl.exp2(s - offset)
        shrunk = tl.exp2(highest - offset)
        total = total * shrunk + p
        mixed = mixed * shrunk[:, None] + p[:, None] * v
        highest = new_highest
    total = tl.where(valid_I, total, 1.0)
    store_vectors(out + head * width, i, valid_I, heads * width, width, mixed / total[:, None], WIDTH)
    tl.store(log_total + i * heads + head, highest + tl.log2(total), mask=valid_I)


@triton.jit(do_not_specialize=["tokens"])
def _backward_queries(
    qkv, out, dout, dqkv, log_total, delta, last, tokens, scale, domains, heads, width,
    WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """dq, and Σ dP ⊙ P of each token for `_backward_states`."""
    head = tl.program_id(1)
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid_I = i < tokens
    stride = 3 * heads * width
    q_base = qkv + head * width
    k_base = q_base + heads * width
    v_base = k_base + heads * width
    q = load_vectors(q_base, i, valid_I, stride, width, WIDTH).to(tl.float32)
    dout_IE = load_vectors(dout + head * width, i, valid_I, heads * width, width, WIDTH).to(tl.float32)
    out_IE = load_vectors(out + head * width, i, valid_I, heads * width, width, WIDTH).to(tl.float32)
    delta_I = tl.sum(dout_IE * out_IE, 1)
    tl.store(delta + i * heads + head, delta_I, mask=valid_I)
    log_total_I = tl.load(log_total + i * heads + head, mask=valid_I, other=0.0)
    dq = tl.zeros([ROWS, WIDTH], tl.float32)
    for domain in range(domains):
        state = tl.load(last + i * domains + domain, mask=valid_I, other=-1)
        seen = state >= 0
        k = load_vectors(k_base, state, seen, stride, width, WIDTH).to(tl.float32)
        v = load_vectors(v_base, state, seen, stride, width, WIDTH).to(tl.float32)
        p = tl.where(seen, tl.exp2(tl.sum(q * k, 1) * (scale * _LOG2_E) - log_total_I), 0.0)
        ds = p * (tl.sum(dout_IE * v, 1) - delta_I)
        dq += ds[:, None] * k
    store_vectors(dqkv + head * width, i, valid_I, stride, width, dq * scale, WIDTH)


@triton.jit
def _backward_states(
    qkv, dout, dqkv, log_total, delta, order, until, inverse, scale, heads, width,
    WIDTH: tl.constexpr, READERS: tl.constexpr,
):  # fmt: skip
    """dk and dv of one token, from all tokens that read it."""
    token, head = tl.program_id(0), tl.program_id(1)
    channel = tl.arange(0, WIDTH)
    real = channel < width
    stride = 3 * heads * width
    k_pointer = token.to(tl.int64) * stride + (heads + head) * width + channel
    k = tl.load(qkv + k_pointer, mask=real, other=0.0).to(tl.float32)
    v = tl.load(qkv + k_pointer + heads * width, mask=real, other=0.0).to(tl.float32)
    dk = tl.zeros([WIDTH], tl.float32)
    dv = tl.zeros([WIDTH], tl.float32)
    end = tl.load(until + token)
    for first in range(tl.load(order + token), end, READERS):
        read = first + tl.arange(0, READERS)
        valid = read < end
        i = tl.load(inverse + read, mask=valid, other=0)
        q = load_vectors(qkv + head * width, i, valid, stride, width, WIDTH).to(tl.float32)
        dout_IE = load_vectors(dout + head * width, i, valid, heads * width, width, WIDTH).to(tl.float32)
        log_total_I = tl.load(log_total + i * heads + head, mask=valid, other=0.0)
        delta_I = tl.load(delta + i * heads + head, mask=valid, other=0.0)
        p = tl.where(valid, tl.exp2(tl.sum(q * k[None, :], 1) * (scale * _LOG2_E) - log_total_I), 0.0)
        ds = p * (tl.sum(dout_IE * v[None, :], 1) - delta_I)
        dk += tl.sum(ds[:, None] * q, 0)
        dv += tl.sum(p[:, None] * dout_IE, 0)
    tl.store(dqkv + k_pointer, (dk * scale).to(dqkv.dtype.element_ty), mask=real)
    tl.store(dqkv + k_pointer + heads * width, dv.to(dqkv.dtype.element_ty), mask=real)
