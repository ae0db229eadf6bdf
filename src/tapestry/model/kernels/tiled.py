"""The CPU kernel: causal attention with ALiBi over tokens sorted by segment, as dense matrix products.

Segments of like length are padded into tiles (`tiles.py`) and a tile is computed in blocks of query rows, each
against the keys up to its end, so nothing beyond the diagonal's blocks is computed. The forward pass keeps the
probabilities for the backward pass, which spares it a third of the work. Segments longer than `LONGEST` go to
torch's fused causal kernel, which keeps none; there ALiBi rides along as two more channels of queries and keys.

Suffixes: N tokens, H heads, E width of a head, C segments of a tile, L its length, R rows of a block, J its keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tapestry.model.kernels.tiles import Gather, Tile

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_fused_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_softmax_backward = torch.ops.aten._softmax_backward_data


def attend_tiled(qkv_N3HE: Tensor, slopes_H: Tensor, tiles: tuple[Tile, ...]) -> Tensor:
    """`attend` over tokens sorted by segment; `tiles` cover them all. (N, H, E)

    Half precision is computed in float32: it hasn't the digits for scores of far positions.
    """
    wide = torch.promote_types(qkv_N3HE.dtype, torch.float32)
    qkv_N3HE, dtype = qkv_N3HE.to(wide).contiguous(), qkv_N3HE.dtype
    out_NHE: Tensor = _TiledAttention.apply(qkv_N3HE, slopes_H.to(wide), tiles)  # type: ignore[no-untyped-call]
    return out_NHE.to(dtype)


class _TiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv_N3HE: Tensor, slopes_H: Tensor, tiles: tuple[Tile, ...]) -> Tensor:
        out_NHE = qkv_N3HE.new_empty(qkv_N3HE.shape[0], *qkv_N3HE.shape[2:])
        keep = ctx.needs_input_grad[0]
        kept: list[Tensor] = []
        for tile in tiles:
            if tile.gather is None:
                kept += _fused_forward(qkv_N3HE, slopes_H, tile, out_NHE)
            else:
                kept += _blocks_forward(qkv_N3HE, slopes_H, tile, tile.gather, out_NHE, keep)
        if keep:
            ctx.save_for_backward(qkv_N3HE, slopes_H, *kept)
            ctx.tiles = tiles
        return out_NHE

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        qkv_N3HE, slopes_H, *kept = ctx.saved_tensors
        grad_N3HE = torch.empty_like(qkv_N3HE)
        grad_NHE = grads[0].contiguous()
        remaining = iter(kept)
        for tile in ctx.tiles:
            if tile.gather is None:
                _fused_backward_of(qkv_N3HE, slopes_H, tile, remaining, grad_NHE, grad_N3HE)
            else:
                _blocks_backward(qkv_N3HE, tile, tile.gather, remaining, grad_NHE, grad_N3HE)
        return grad_N3HE, None, None


def _blocks_forward(
    qkv_N3HE: Tensor, slopes_H: Tensor, tile: Tile, gather: Gather, out_NHE: Tensor, keep: bool
) -> list[Tensor]:
    heads, width = qkv_N3HE.shape[2:]
    q, k, v = (_taken(name, qkv_N3HE, part, tile, gather) for part, name in enumerate("qkv"))
    out = _scratch("out", q, *q.shape)
    kept = []
    for start, end in _blocks(tile):
        shape = (len(q), end - start, end)
        p = q.new_empty(shape) if keep else _scratch("p", q, *shape)
        torch.baddbmm(p, q[:, start:end], k[:, :end].transpose(1, 2), beta=0, alpha=width**-0.5, out=p)
        # Measured from the block's last position: small, so exact, where the weights are not.
        past_CJ = (tile.past_CL[:, :end] - tile.past_CL[:, end - 1 : end]).to(p.dtype)
        p_CHRJ = p.view(tile.count, heads, end - start, end)
        p_CHRJ.add_((past_CJ[:, None] * slopes_H[:, None])[:, :, None])
        if tile.hidden_CLL is None:
            p[:, :, start:].add_(_future(p)[: end - start, : end - start])
        else:
            p_CHRJ.add_(tile.hidden_CLL[:, None, start:end, :end])
        torch.softmax(p, -1, out=p)
        _product(p, v[:, :end], out, start, end)
        if keep:
            kept.append(p)
    torch.index_select(out.view(-1, width), 0, gather.put_NH, out=out_NHE[tile.start : tile.end].view(-1, width))
    return kept


def _blocks_backward(
    qkv_N3HE: Tensor, tile: Tile, gather: Gather, kept: Iterator[Tensor], grad_NHE: Tensor, grad_N3HE: Tensor
) -> None:
    heads, width = grad_NHE.shape[1:]
    q, k, v = (_taken(name, qkv_N3HE, part, tile, gather) for part, name in enumerate("qkv"))
    g = _scratch("g", q, *q.shape)
    torch.index_select(grad_NHE.view(-1, width), 0, gather.take_CHL, out=g.view(-1, width))
    if len(gather.padding_P):
        g.view(-1, width).index_fill_(0, gather.padding_P, 0.0)
    dq, dk, dv = (_scratch(name, q, *q.shape) for name in ("dq", "dk", "dv"))
    blocks = _blocks(tile)
    probabilities = [next(kept) for _ in blocks]
    # From the last block, whose keys are all: it writes dk and dv, the others add to them.
    for (start, end), p in zip(reversed(blocks), reversed(probabilities), strict=True):
        q_R, g_R = q[:, start:end], g[:, start:end]
        ds = torch.bmm(g_R, v[:, :end].transpose(1, 2), out=_scratch("p", q, *p.shape))
        _softmax_backward.out(ds, p, -1, ds.dtype, grad_input=ds)
        _product(ds, k[:, :end], dq, start, end)
        for left, right, total in ((p, g_R, dv), (ds, q_R, dk)):
            if end == tile.length:
                torch.bmm(left.transpose(1, 2), right, out=total)
            else:
                part = _scratch("part", q, len(q), end, width)
                total[:, :end].add_(torch.bmm(left.transpose(1, 2), right, out=part))
    for place, (total, scale) in enumerate(((dq, width**-0.5), (dk, width**-0.5), (dv, 1.0))):
        real = _scratch("part", q, len(gather.put_NH), width)
        torch.index_select(total.view(-1, width), 0, gather.put_NH, out=real)
        torch.mul(real.view(-1, heads, width), scale, out=grad_N3HE[tile.start : tile.end, place])


def _blocks(tile: Tile) -> list[tuple[int, int]]:
    return [(start, min(start + tile.rows, tile.length)) for start in range(0, tile.length, tile.rows)]


def _taken(name: str, qkv_N3HE: Tensor, part: int, tile: Tile, gather: Gather) -> Tensor:
    """The queries (part 0), keys or values of the tile's segments, padded. (C·H, L, E)"""
    heads, width = qkv_N3HE.shape[2:]
    out = _scratch(name, qkv_N3HE, tile.count * heads, tile.length, width)
    torch.index_select(qkv_N3HE.view(-1, width)[part * heads :], 0, gather.take_qkv_CHL, out=out.view(-1, width))
    return out


def _product(left: Tensor, right: Tensor, out: Tensor, start: int, end: int) -> None:
    """out[:, start:end] = left @ right, without a copy where that is all of it."""
    if end - start == out.shape[1]:
        torch.bmm(left, right, out=out)
    else:
        out[:, start:end] = torch.bmm(left, right, out=_scratch("part", left, len(left), end - start, out.shape[2]))


def _fused_forward(qkv_N3HE: Tensor, slopes_H: Tensor, tile: Tile, out_NHE: Tensor) -> list[Tensor]:
    out, logsumexp = _fused(*_with_alibi(qkv_N3HE, slopes_H, tile), 0.0, True, scale=1.0)
    out_NHE[tile.start : tile.end] = out[0, :, :, : out_NHE.shape[2]].transpose(0, 1)
    return [out, logsumexp]


def _fused_backward_of(
    qkv_N3HE: Tensor,
    slopes_H: Tensor,
    tile: Tile,
    kept: Iterator[Tensor],
    grad_NHE: Tensor,
    grad_N3HE: Tensor,
) -> None:
    width = grad_NHE.shape[2]
    g_LHE = torch.nn.functional.pad(grad_NHE[tile.start : tile.end], (0, 2))
    q, k, v = _with_alibi(qkv_N3HE, slopes_H, tile)
    grads = _fused_backward(g_LHE.transpose(0, 1)[None], q, k, v, next(kept), next(kept), 0.0, True, scale=1.0)
    for part, (grad, scale) in enumerate(zip(grads, (width**-0.5, 1.0, 1.0), strict=True)):
        torch.mul(grad[0, :, :, :width].transpose(0, 1), scale, out=grad_N3HE[tile.start : tile.end, part])


def _with_alibi(qkv_N3HE: Tensor, slopes_H: Tensor, tile: Tile) -> tuple[Tensor, ...]:
    """Scaled queries, keys and values (1, H, L, E + 2) of one segment, whose products hold the bias m·j.

    −m (i − j) is m·j but for a constant of the row, which softmax doesn't see. j counts from the segment's
    end, in units of 64 and of 1: both channels are small whole numbers.
    """
    _, heads, width = qkv_N3HE.shape[1:]
    qkv_3LHE = _scratch("fused", qkv_N3HE, 3, tile.length, heads, width + 2)
    qkv_3LHE[..., :width] = qkv_N3HE[tile.start : tile.end].transpose(0, 1)
    qkv_3LHE[0, :, :, :width] *= width**-0.5
    qkv_3LHE[0, :, :, width:] = slopes_H[:, None] * slopes_H.new_tensor([64.0, 1.0])
    past_L = tile.past_CL[0]
    coarse_L = torch.floor(past_L / 64)
    qkv_3LHE[1, :, :, width] = coarse_L[:, None]
    qkv_3LHE[1, :, :, width + 1] = (past_L - 64 * coarse_L)[:, None]
    qkv_3LHE[2, :, :, width:] = 0.0
    return tuple(x_LHE.transpose(0, 1)[None] for x_LHE in qkv_3LHE)


_scratches: dict[tuple[str, torch.dtype], Tensor] = {}


def _scratch(name: str, like: Tensor, *shape: int) -> Tensor:
    """Memory that lasts until the next call with this name: fresh memory would cost a page fault each 4 KiB."""
    needed = math.prod(shape)
    held = _scratches.get((name, like.dtype))
    if held is None or held.numel() < needed:
        with torch.inference_mode(False):  # or training couldn't write to what evaluation made
            held = _scratches[name, like.dtype] = torch.empty(needed, dtype=like.dtype)
    return held[:needed].view(shape)


def _future(like: Tensor) -> Tensor:
    """−∞ above the diagonal, for the largest block. (R, R)"""
    rows = like.shape[1]
    held = _scratches.get(("future", like.dtype))
    if held is None or len(held) < rows:
        with torch.inference_mode(False):
            held = torch.full((rows, rows), float("-inf"), dtype=like.dtype).triu(1)
        _scratches["future", like.dtype] = held
    return held
