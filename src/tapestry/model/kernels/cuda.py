"""The CUDA kernels: FlexAttention with a document mask, and torch's variable-length flash attention.

Both compute over tokens sorted by segment, whose blocks off the diagonal they skip. FlexAttention also runs on the
CPU, without a backward.

Suffixes: N tokens, H heads, E width of a head, G segments.
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

_BUCKET = 1024  # tokens: FlexAttention compiles anew for a length it hasn't seen
_ALIBI_CHANNELS = 8  # of queries and keys; two are used, flash attention wants a multiple of 8


def attend_flex(qkv_N3HE: Tensor, slopes_H: Tensor, segments: Segments) -> Tensor:
    """`attend` by FlexAttention over the whole batch as one sequence, masked by segment. (N, H, E)"""
    tokens = len(qkv_N3HE)
    mask, position_N = _document_mask(segments)
    slopes_H = slopes_H.to(qkv_N3HE.dtype)

    def with_alibi(score: Tensor, _b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score - slopes_H[h] * (position_N[i] - position_N[j])

    padded = F.pad(qkv_N3HE, (0, 0, 0, 0, 0, 0, 0, len(position_N) - tokens))
    q, k, v = padded.permute(1, 2, 0, 3)[:, None]
    out_1HNE: Tensor = _compiled_on_cuda(flex_attention, q.device)(q, k, v, score_mod=with_alibi, block_mask=mask)
    return out_1HNE[0, :, :tokens].transpose(0, 1)


@lru_cache(maxsize=1)  # the layers of one batch share it
def _document_mask(segments: Segments) -> tuple[BlockMask, Tensor]:
    """Which tokens see which, and the positions, both padded on CUDA to a multiple of `_BUCKET`."""
    device = segments.order_N.device
    padding = -len(segments.order_N) % _BUCKET if device.type == "cuda" else 0
    # Padding is a segment of its own, so each of its rows sees something.
    segment_N = F.pad(segments.segment_of_token(), (0, padding), value=-1)

    def visible(_b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (segment_N[i] == segment_N[j]) & (i >= j)

    length = len(segment_N)
    build = _compiled_on_cuda(create_block_mask, device)
    return build(visible, None, None, length, length, device=str(device)), F.pad(segments.position_N, (0, padding))


def attend_varlen(qkv_N3HE: Tensor, slopes_H: Tensor, segments: Segments) -> Tensor:
    """`attend` by `torch.nn.attention.varlen`, ALiBi in two more channels of queries and keys. (N, H, E)

    −m (i − j) is m·j but for a constant of the row. j is split in units of 64 and of 1: whole numbers below
    256 and slopes that are powers of two are exact in bf16, for windows up to 16,384 positions.
    """
    from torch.nn.attention.varlen import varlen_attn  # CUDA alone has it

    width = qkv_N3HE.shape[-1]
    q, k, v = F.pad(qkv_N3HE, (0, _ALIBI_CHANNELS)).unbind(1)
    q = q * width**-0.5
    q[..., width], q[..., width + 1] = 64 * slopes_H, slopes_H
    k[..., width], k[..., width + 1] = (segments.position_N // 64)[:, None], (segments.position_N % 64)[:, None]
    ends_G1 = torch.tensor([0, *segments.lengths_G.cumsum()], dtype=torch.int32, device=q.device)
    longest = int(segments.lengths_G.max())
    out = varlen_attn(q, k, v, ends_G1, ends_G1, longest, longest, scale=1.0, window_size=(-1, 0))
    assert isinstance(out, Tensor)
    return out[..., :width]


def _compiled_on_cuda(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    return _compiled(function) if device.type == "cuda" else function


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function)
