"""The CUDA kernel of attention, in Triton: causal attention with ALiBi over tokens sorted by segment.

Token i sees the tokens j with start_i ≤ j ≤ i, where start_i is the first token of its segment. As segments are
contiguous, a block of queries needs only the keys from its first token's start to its own end. A block may span many
short segments or be a part of a long one, so short histories fill the GPU as well as long ones, and no mask is stored.

Equations, with S_ij = q_i · k_j / √E − m (i − j) for the positions of i and j in the history, and L_i the logarithm of
the sum of exp S_ij over j (flash attention, arXiv 2307.08691):

    forward:   O_i = Σ_j P_ij v_j,  P_ij = exp(S_ij − L_i)
    backward:  Δ_i = dO_i · O_i,  dP_ij = dO_i · v_j,  dS = P ⊙ (dP − Δ)
               dq_i = Σ_j dS_ij k_j / √E,  dk_j = Σ_i dS_ij q_i / √E,  dv_j = Σ_i P_ij dO_i

One kernel sums over keys for dq, another one over queries for dk and dv, so no sum depends on the order in which blocks
end: results are the same in every run. Blocks of one segment skip the mask, except near i = j. Exponents are to base 2.

Shapes: N tokens, H heads, E width of a head. In kernels: I queries of a block, J keys of a block, and WIDTH channels, E
rounded up to a power of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from tapestry.model.kernels.triton_vectors import load_vectors, store_vectors
from tapestry.model.segments import Segments

_LOG2_E = tl.constexpr(1.4426950408889634)


def attend_triton(qkv_N3HE: Tensor, slopes_H: Tensor, segments: Segments) -> Tensor:
    """`attend` by the kernels of this module, in bf16 or fp32. (N, H, E)"""
    out_NHE: Tensor = _Attention.apply(qkv_N3HE, slopes_H, segments)
    return out_NHE


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv_N3HE: Tensor, slopes_H: Tensor, segments: Segments) -> Tensor:
        tokens, _, heads, width = qkv_N3HE.shape
        qkv_N3HE = qkv_N3HE.contiguous()
        out_NHE = qkv_N3HE.new_empty(tokens, heads, width)
        total_HN = torch.empty(heads, tokens, dtype=torch.float32, device=qkv_N3HE.device)  # L, to base 2
        blocks, _, _ = _blocks(qkv_N3HE)
        _forward[(triton.cdiv(tokens, blocks.rows), heads)](
            qkv_N3HE, out_NHE, total_HN, segments.position_N, segments.start_N, slopes_H, tokens, width**-0.5, heads,
            width, WIDTH=_padded(width), ROWS=blocks.rows, KEYS=blocks.keys, **blocks.options(qkv_N3HE.dtype),
        )  # fmt: skip
        ctx.save_for_backward(qkv_N3HE, out_NHE, total_HN, slopes_H)
        ctx.segments = segments
        return out_NHE

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        qkv_N3HE, out_NHE, total_HN, slopes_H = ctx.saved_tensors
        segments: Segments = ctx.segments
        tokens, _, heads, width = qkv_N3HE.shape
        dout_NHE = grads[0].contiguous()
        dqkv_N3HE = torch.empty_like(qkv_N3HE)
        delta_HN = torch.empty_like(total_HN)
        _, of_queries, of_keys = _blocks(qkv_N3HE)
        arguments = (
            qkv_N3HE, out_NHE, dout_NHE, dqkv_N3HE, total_HN, delta_HN, segments.position_N, segments.start_N,
            segments.end_N, slopes_H, tokens, width**-0.5, heads, width,
        )  # fmt: skip
        padded, dtype = _padded(width), qkv_N3HE.dtype
        _backward_queries[(triton.cdiv(tokens, of_queries.rows), heads)](
            *arguments, WIDTH=padded, ROWS=of_queries.rows, KEYS=of_queries.keys, **of_queries.options(dtype)
        )
        # Here a block of keys meets one block of queries after the other.
        _backward_keys[(triton.cdiv(tokens, of_keys.rows), heads)](
            *arguments, WIDTH=padded, ROWS=of_keys.keys, KEYS=of_keys.rows, **of_keys.options(dtype)
        )
        return dqkv_N3HE, None, None


def _padded(width: int) -> int:
    """The channels of a block: Triton's matrix products take powers of two from 16."""
    return max(16, triton.next_power_of_2(width))


@dataclass(frozen=True)
class _Blocks:
    """How many tokens a block has, how many it meets at a time, and how Triton compiles it."""

    rows: int
    keys: int
    warps: int
    stages: int

    def options(self, dtype: torch.dtype) -> dict[str, Any]:
        precision = "tf32x3" if dtype == torch.float32 else "tf32"  # of products in float32
        return {"PRECISION": precision, "num_warps": self.warps, "num_stages": self.stages}


def _blocks(qkv_N3HE: Tensor) -> tuple[_Blocks, _Blocks, _Blocks]:
    """The blocks of the forward kernel, of that of dq, and of that of dk and dv.

    For bf16 up to a width of 64 they are among the fastest of ten each, for short and long segments, on an H200. Those
    for fp32 and wider heads are not tuned.
    """
    width = qkv_N3HE.shape[-1]
    if qkv_N3HE.dtype == torch.float32 or width > 64:
        small = _Blocks(64, 32, 4, 2)
        return small, small, small
    if width > 32:
        return _Blocks(128, 64, 4, 3), _Blocks(64, 32, 4, 3), _Blocks(64, 32, 4, 2)
    if width > 16:
        return _Blocks(128, 32, 4, 3), _Blocks(128, 32, 4, 3), _Blocks(64, 32, 4, 2)
    return _Blocks(64, 64, 2, 3), _Blocks(64, 64, 2, 2), _Blocks(64, 32, 2, 3)


@triton.jit
def _load_whole(base, token, valid, other):
    return tl.load(base + token, mask=valid, other=other).to(tl.int32)


@triton.jit
def _add_keys(
    total, highest, mixed, q, origin, start_I, i, first, end, last, k_base, v_base, position, stride, width,
    slope, scale, WIDTH: tl.constexpr, KEYS: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Continue the softmax of a block of queries over the keys first … end − 1.

    Scores lack −m (i − origin), which is equal in a row. The caller subtracts it from L.
    """
    for j_first in range(first, end, KEYS):
        j = j_first + tl.arange(0, KEYS)
        valid_J = j < last
        k = load_vectors(k_base, j, valid_J, stride, width, WIDTH)
        v = load_vectors(v_base, j, valid_J, stride, width, WIDTH)
        bias_J = (_load_whole(position, j, valid_J, 0) - origin).to(tl.float32) * slope
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale + bias_J[None, :]
        if MASKED:
            s = tl.where((j[None, :] <= i[:, None]) & (j[None, :] >= start_I[:, None]), s, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(s, 1))
        # A row that has seen no key yet has no highest score.
        offset = tl.where(new_highest == float("-inf"), 0.0, new_highest)
        p = tl.exp2(s - offset[:, None])
        shrunk = tl.exp2(highest - offset)
        total = total * shrunk + tl.sum(p, 1)
        mixed = tl.dot(p.to(v.dtype), v, mixed * shrunk[:, None], input_precision=PRECISION)
        highest = new_highest
    return total, highest, mixed


@triton.jit(do_not_specialize=["tokens"])
def _forward(
    qkv, out, log_total, position, start, slopes, tokens, scale, heads, width,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # The longest segments come last; they take longest, so they start first.
    block, head = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1)
    i_first = block * ROWS
    i = i_first + tl.arange(0, ROWS)
    valid_I = i < tokens
    last = tl.minimum(i_first + ROWS, tokens)
    stride = 3 * heads * width
    q_base = qkv + head * width
    k_base = q_base + heads * width
    v_base = k_base + heads * width
    slope = tl.load(slopes + head).to(tl.float32) * _LOG2_E
    scale = scale * _LOG2_E
    q = load_vectors(q_base, i, valid_I, stride, width, WIDTH)
    position_I = _load_whole(position, i, valid_I, 0)
    start_I = _load_whole(start, i, valid_I, tokens)
    origin = tl.load(position + i_first).to(tl.int32)
    first = tl.load(start + i_first).to(tl.int32)
    of_one_segment = tl.load(start + last - 1).to(tl.int32) == first
    middle = tl.where(of_one_segment, first + (i_first - first) // KEYS * KEYS, first)
    total = tl.zeros([ROWS], tl.float32)
    highest = tl.full([ROWS], float("-inf"), tl.float32)
    mixed = tl.zeros([ROWS, WIDTH], tl.float32)
    total, highest, mixed = _add_keys(
        total, highest, mixed, q, origin, start_I, i, first, middle, last, k_base, v_base, position, stride,
        width, slope, scale, WIDTH, KEYS, False, PRECISION,
    )  # fmt: skip
    total, highest, mixed = _add_keys(
        total, highest, mixed, q, origin, start_I, i, middle, last, last, k_base, v_base, position, stride,
        width, slope, scale, WIDTH, KEYS, True, PRECISION,
    )  # fmt: skip
    total = tl.where(valid_I, total, 1.0)
    store_vectors(out + head * width, i, valid_I, heads * width, width, mixed / total[:, None], WIDTH)
    log_total_I = highest + tl.log2(total) - (position_I - origin).to(tl.float32) * slope
    tl.store(log_total + head * tokens + i, log_total_I, mask=valid_I)


@triton.jit
def _add_to_dq(
    dq, q, dout, log_total_I, delta_I, origin, start_I, i, first, end, last, k_base, v_base, position, stride, width,
    slope, scale, WIDTH: tl.constexpr, KEYS: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    for j_first in range(first, end, KEYS):
        j = j_first + tl.arange(0, KEYS)
        valid_J = j < last
        k = load_vectors(k_base, j, valid_J, stride, width, WIDTH)
        v = load_vectors(v_base, j, valid_J, stride, width, WIDTH)
        bias_J = (_load_whole(position, j, valid_J, 0) - origin).to(tl.float32) * slope
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale + bias_J[None, :]
        p = tl.exp2(s - log_total_I[:, None])
        if MASKED:
            p = tl.where((j[None, :] <= i[:, None]) & (j[None, :] >= start_I[:, None]), p, 0.0)
        dp = tl.dot(dout, tl.trans(v), input_precision=PRECISION)
        ds = p * (dp - delta_I[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
    return dq


@triton.jit(do_not_specialize=["tokens"])
def _backward_queries(
    qkv, out, dout, dqkv, log_total, delta, position, start, end, slopes, tokens, scale, heads, width,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq, and Δ for `_backward_keys`."""
    block, head = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1)
    i_first = block * ROWS
    i = i_first + tl.arange(0, ROWS)
    valid_I = i < tokens
    last = tl.minimum(i_first + ROWS, tokens)
    stride = 3 * heads * width
    q_base = qkv + head * width
    k_base = q_base + heads * width
    v_base = k_base + heads * width
    slope = tl.load(slopes + head).to(tl.float32) * _LOG2_E
    q = load_vectors(q_base, i, valid_I, stride, width, WIDTH)
    dout_IE = load_vectors(dout + head * width, i, valid_I, heads * width, width, WIDTH)
    out_IE = load_vectors(out + head * width, i, valid_I, heads * width, width, WIDTH)
    delta_I = tl.sum(dout_IE.to(tl.float32) * out_IE.to(tl.float32), 1)
    tl.store(delta + head * tokens + i, delta_I, mask=valid_I)
    start_I = _load_whole(start, i, valid_I, tokens)
    origin = tl.load(position + i_first).to(tl.int32)
    # As in `_add_keys`, scores lack −m (i − origin).
    log_total_I = tl.load(log_total + head * tokens + i, mask=valid_I, other=0.0)
    log_total_I += (_load_whole(position, i, valid_I, 0) - origin).to(tl.float32) * slope
    first = tl.load(start + i_first).to(tl.int32)
    of_one_segment = tl.load(start + last - 1).to(tl.int32) == first
    middle = tl.where(of_one_segment, first + (i_first - first) // KEYS * KEYS, first)
    dq = tl.zeros([ROWS, WIDTH], tl.float32)
    dq = _add_to_dq(
        dq, q, dout_IE, log_total_I, delta_I, origin, start_I, i, first, middle, last, k_base, v_base, position, stride,
        width, slope, scale * _LOG2_E, WIDTH, KEYS, False, PRECISION,
    )  # fmt: skip
    dq = _add_to_dq(
        dq, q, dout_IE, log_total_I, delta_I, origin, start_I, i, middle, last, last, k_base, v_base, position, stride,
        width, slope, scale * _LOG2_E, WIDTH, KEYS, True, PRECISION,
    )  # fmt: skip
    store_vectors(dqkv + head * width, i, valid_I, stride, width, dq * scale, WIDTH)


@triton.jit
def _add_to_dk_dv(
    dk, dv, k, v, bias_J, origin, j, first, end, tokens, q_base, dout_base, log_total, delta, position, start, stride,
    out_stride, width, slope, scale,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    for i_first in range(first, end, ROWS):
        i = i_first + tl.arange(0, ROWS)
        valid_I = i < tokens
        q = load_vectors(q_base, i, valid_I, stride, width, WIDTH)
        dout = load_vectors(dout_base, i, valid_I, out_stride, width, WIDTH)
        log_total_I = tl.load(log_total + i, mask=valid_I, other=0.0)
        delta_I = tl.load(delta + i, mask=valid_I, other=0.0)
        bias_I = log_total_I + (_load_whole(position, i, valid_I, 0) - origin).to(tl.float32) * slope
        s_JI = tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale + bias_J[:, None]
        p_JI = tl.exp2(s_JI - bias_I[None, :])
        if MASKED:
            start_I = _load_whole(start, i, valid_I, tokens)
            p_JI = tl.where((j[:, None] <= i[None, :]) & (j[:, None] >= start_I[None, :]), p_JI, 0.0)
        dv = tl.dot(p_JI.to(dout.dtype), dout, dv, input_precision=PRECISION)
        dp_JI = tl.dot(v, tl.trans(dout), input_precision=PRECISION)
        ds_JI = p_JI * (dp_JI - delta_I[None, :])
        dk = tl.dot(ds_JI.to(q.dtype), q, dk, input_precision=PRECISION)
    return dk, dv


@triton.jit(do_not_specialize=["tokens"])
def _backward_keys(
    qkv, out, dout, dqkv, log_total, delta, position, start, end, slopes, tokens, scale, heads, width,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dk and dv. KEYS is a multiple of ROWS."""
    block, head = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1)
    j_first = block * KEYS
    j = j_first + tl.arange(0, KEYS)
    valid_J = j < tokens
    stride, out_stride = 3 * heads * width, heads * width
    q_base = qkv + head * width
    k_base = q_base + heads * width
    v_base = k_base + heads * width
    dout_base = dout + head * width
    log_total_base, delta_base = log_total + head * tokens, delta + head * tokens
    slope = tl.load(slopes + head).to(tl.float32) * _LOG2_E
    k = load_vectors(k_base, j, valid_J, stride, width, WIDTH)
    v = load_vectors(v_base, j, valid_J, stride, width, WIDTH)
    origin = tl.load(position + j_first).to(tl.int32)
    bias_J = (_load_whole(position, j, valid_J, 0) - origin).to(tl.float32) * slope
    last = tl.load(end + tl.minimum(j_first + KEYS, tokens) - 1).to(tl.int32)
    near = tl.minimum(j_first + KEYS, last)
    of_one_segment = tl.load(end + j_first).to(tl.int32) == last
    middle = tl.where(of_one_segment, near + (last - near) // ROWS * ROWS, near)
    dk = tl.zeros([KEYS, WIDTH], tl.float32)
    dv = tl.zeros([KEYS, WIDTH], tl.float32)
    dk, dv = _add_to_dk_dv(
        dk, dv, k, v, bias_J, origin, j, j_first, near, tokens, q_base, dout_base, log_total_base, delta_base, position,
        start, stride, out_stride, width, slope, scale * _LOG2_E, WIDTH, ROWS, True, PRECISION,
    )  # fmt: skip
    dk, dv = _add_to_dk_dv(
        dk, dv, k, v, bias_J, origin, j, near, middle, tokens, q_base, dout_base, log_total_base, delta_base, position,
        start, stride, out_stride, width, slope, scale * _LOG2_E, WIDTH, ROWS, False, PRECISION,
    )  # fmt: skip
    dk, dv = _add_to_dk_dv(
        dk, dv, k, v, bias_J, origin, j, middle, last, tokens, q_base, dout_base, log_total_base, delta_base, position,
        start, stride, out_stride, width, slope, scale * _LOG2_E, WIDTH, ROWS, True, PRECISION,
    )  # fmt: skip
    store_vectors(dqkv + (heads + head) * width, j, valid_J, stride, width, dk * scale, WIDTH)
    store_vectors(dqkv + (2 * heads + head) * width, j, valid_J, stride, width, dv, WIDTH)
