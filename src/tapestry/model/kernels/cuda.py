"""The CUDA kernels: FlexAttention with a document mask, and torch's variable-length flash attention.

Both are torch's. They compute attention over tokens sorted by segment, and skip the blocks of scores between segments.
FlexAttention also runs on the CPU, without a backward pass. Forward equation and reference:
`tapestry.model.attention.attend_reference`, which has the same signature.

Suffixes: N tokens, M = N plus padding, H heads, E width of a head, F = E + 8 channels with the bias, G segments.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from tapestry.model.segments import Segments

_BUCKET = 1024  # tokens: FlexAttention compiles again for each new length, so lengths are multiples of this
_BIAS_CHANNELS = 8  # added to queries and keys; two hold the bias, flash attention needs a multiple of 8


def attend_flex(qkv_N3HE: Tensor, slopes_H: Tensor, segments: Segments) -> Tensor:
    """`attend` by FlexAttention over the whole batch as one sequence, masked by segment. (N, H, E)"""
    tokens = len(qkv_N3HE)
    mask, position_M = _document_mask(segments)
    slopes_H = slopes_H.to(qkv_N3HE.dtype)

    def with_alibi(score: Tensor, _b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score - slopes_H[h] * (position_M[i] - position_M[j])

    qkv_M3HE = F.pad(qkv_N3HE, (0, 0, 0, 0, 0, 0, 0, len(position_M) - tokens))
    q_1HME, k_1HME, v_1HME = qkv_M3HE.permute(1, 2, 0, 3)[:, None]
    attention = _compiled_on_cuda(flex_attention, qkv_N3HE.device)
    out_1HME: Tensor = attention(q_1HME, k_1HME, v_1HME, score_mod=with_alibi, block_mask=mask)
    return out_1HME[0, :, :tokens].transpose(0, 1)


@lru_cache(maxsize=1)  # the layers of one batch share it
def _document_mask(segments: Segments) -> tuple[BlockMask, Tensor]:
    """Which tokens see which, and the positions, (M,). On CUDA both are padded to a multiple of `_BUCKET`."""
    device = segments.order_N.device
    padding = -len(segments.order_N) % _BUCKET if device.type == "cuda" else 0
    # Padding is one more segment: a token that sees no token at all would give NaN.
    segment_M = F.pad(segments.segment_of_token(), (0, padding), value=-1)

    def visible(_b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (segment_M[i] == segment_M[j]) & (i >= j)

    length = len(segment_M)
    build = _compiled_on_cuda(create_block_mask, device)
    return build(visible, None, None, length, length, device=str(device)), F.pad(segments.position_N, (0, padding))


def attend_varlen(qkv_N3HE: Tensor, slopes_H: Tensor, segments: Segments) -> Tensor:
    """`attend` by `torch.nn.attention.varlen`, with ALiBi in two more channels of queries and keys. (N, H, E)

    Softmax doesn't change if a row of scores changes by a constant, so −m (i − j) may be written m·j. With
    j = 64·a + b, queries get the channels (64 m, m) and keys (a, b). Whole numbers up to 256 and slopes that are powers
    of two are exact in bf16, so windows up to 16,384 positions are.
    """
    from torch.nn.attention.varlen import varlen_attn  # here, as no other kernel needs it

    width = qkv_N3HE.shape[-1]
    q_NHF, k_NHF, v_NHF = F.pad(qkv_N3HE, (0, _BIAS_CHANNELS)).unbind(1)
    q_NHF = q_NHF * width**-0.5
    q_NHF[..., width], q_NHF[..., width + 1] = 64 * slopes_H, slopes_H
    k_NHF[..., width] = (segments.position_N // 64)[:, None]
    k_NHF[..., width + 1] = (segments.position_N % 64)[:, None]
    offsets_G1 = torch.tensor([0, *segments.lengths_G.cumsum()], dtype=torch.int32, device=qkv_N3HE.device)
    longest = int(segments.lengths_G.max())
    out_NHF = varlen_attn(q_NHF, k_NHF, v_NHF, offsets_G1, offsets_G1, longest, longest, scale=1.0, window_size=(-1, 0))
    assert isinstance(out_NHF, Tensor)
    return out_NHF[..., :width]


def _compiled_on_cuda(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    return _compiled(function) if device.type == "cuda" else function


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function)
