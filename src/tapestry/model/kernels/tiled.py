"""The CPU kernel: causal attention with ALiBi within segments, as dense matrix products over tiles (`tiles.py`).

Forward, for a segment and head with slope m, where query i sees the keys j ≤ i of its own segment and pos is a
token's position in the whole history:

    S_ij = q_i · k_j / √E − m (pos_i − pos_j),  −∞ where i doesn't see j
    P    = softmax over j of S                     O = P V

Backward:

    dV = Pᵀ dO                                     dQ = dS K / √E
    dP = dO Vᵀ                                     dK = dSᵀ Q / √E
    dS = P ⊙ (dP − rowsum(dP ⊙ P))

Softmax doesn't change if a row of S changes by a constant. So the bias −m (pos_i − pos_j) may be written m (pos_j − c)
with any c that is the same for all keys of a row. That needs no (i, j) tensor of biases.

A tile is computed in blocks of queries, each against the keys up to its end, so that little above the diagonal is
computed. The forward pass stores P for the backward pass, which saves the backward pass a third of its work. A segment
longer than `LONGEST` uses torch's fused causal kernel, which doesn't store P; there two more channels of queries and
keys hold the bias.

Suffixes: N tokens of the batch, H heads, E width of a head, C rows of a tile, L positions of a row, X = C·H pairs
(row, head) of a tile, I queries and J keys of a block, T tokens of a tile, F = E + 2 channels with the bias.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tapestry.model.kernels.aten import causal_attention_cpu, causal_attention_cpu_backward, softmax_backward
from tapestry.model.kernels.tiles import Gather, Tile
from tapestry.model.segments import Segments


def attend_tiled(qkv_N3HE: Tensor, slopes_H: Tensor, segments: Segments) -> Tensor:
    """O of this module's equations, (N, H, E). Tokens are in the order of `segments`, whose tiles cover all of them.

    Half precision is computed in float32: it has too few digits for the bias of distant positions.
    """
    wide = torch.promote_types(qkv_N3HE.dtype, torch.float32)
    out_NHE: Tensor = _TiledAttention.apply(  # type: ignore[no-untyped-call]
        qkv_N3HE.to(wide).contiguous(), slopes_H.to(wide), segments.tiles
    )
    return out_NHE.to(qkv_N3HE.dtype)


def attend_tiled_reference(qkv_N3HE: Tensor, slopes_H: Tensor, segments: Segments) -> Tensor:
    """`attend_tiled` in plain torch: one segment after another, and gradients by autograd."""
    lengths = segments.lengths_G.tolist()
    out = []
    for qkv_L3HE, position_L in zip(qkv_N3HE.split(lengths), segments.position_N.split(lengths), strict=True):
        q_HLE, k_HLE, v_HLE = qkv_L3HE.permute(1, 2, 0, 3)
        distance_LL = position_L[:, None] - position_L
        s_HLL = q_HLE @ k_HLE.mT / q_HLE.shape[-1] ** 0.5 - slopes_H[:, None, None] * distance_LL
        p_HLL = torch.softmax(s_HLL.masked_fill(distance_LL < 0, float("-inf")), -1)
        out.append((p_HLL @ v_HLE).transpose(0, 1))
    return torch.cat(out)


class _TiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv_N3HE: Tensor, slopes_H: Tensor, tiles: tuple[Tile, ...]) -> Tensor:
        out_NHE = qkv_N3HE.new_empty(qkv_N3HE.shape[0], *qkv_N3HE.shape[2:])
        save = ctx.needs_input_grad[0]
        saved: list[Tensor] = []
        for tile in tiles:
            if tile.gather is None:
                saved += _fused_forward(qkv_N3HE, slopes_H, tile, out_NHE)
            else:
                saved += _blocks_forward(qkv_N3HE, slopes_H, tile, tile.gather, out_NHE, save)
        if save:
            ctx.save_for_backward(qkv_N3HE, slopes_H, *saved)
            ctx.tiles = tiles
        return out_NHE

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        qkv_N3HE, slopes_H, *rest = ctx.saved_tensors
        saved = iter(rest)  # each tile takes what its forward pass saved
        dqkv_N3HE = torch.empty_like(qkv_N3HE)
        dout_NHE = grads[0].contiguous()
        for tile in ctx.tiles:
            if tile.gather is None:
                _fused_backward(qkv_N3HE, slopes_H, tile, saved, dout_NHE, dqkv_N3HE)
            else:
                _blocks_backward(qkv_N3HE, tile, tile.gather, saved, dout_NHE, dqkv_N3HE)
        return dqkv_N3HE, None, None


def _blocks_forward(
    qkv_N3HE: Tensor, slopes_H: Tensor, tile: Tile, gather: Gather, out_NHE: Tensor, save: bool
) -> list[Tensor]:
    """Write O of a tile's tokens to `out_NHE`. Returns P of each block, (X, I, J), if `save`."""
    heads, width = qkv_N3HE.shape[2:]
    q_XLE, k_XLE, v_XLE = (_padded(name, qkv_N3HE, part, tile, gather) for part, name in enumerate("qkv"))
    out_XLE = _scratch("out", q_XLE, *q_XLE.shape)
    saved = []
    for start, end in _blocks(tile):
        shape = (len(q_XLE), end - start, end)
        p_XIJ = q_XLE.new_empty(shape) if save else _scratch("p", q_XLE, *shape)
        torch.baddbmm(p_XIJ, q_XLE[:, start:end], k_XLE[:, :end].transpose(1, 2), beta=0, alpha=width**-0.5, out=p_XIJ)
        # The constant c is the position of the block's last key: keys near the queries, which weigh most, get a small
        # bias, which rounds least.
        position_CJ = (tile.position_CL[:, :end] - tile.position_CL[:, end - 1 : end]).to(p_XIJ.dtype)
        p_CHIJ = p_XIJ.view(tile.count, heads, end - start, end)
        p_CHIJ.add_((position_CJ[:, None] * slopes_H[:, None])[:, :, None])
        if tile.mask_CLL is None:
            p_XIJ[:, :, start:].add_(_causal_mask(p_XIJ)[: end - start, : end - start])
        else:
            p_CHIJ.add_(tile.mask_CLL[:, None, start:end, :end])
        torch.softmax(p_XIJ, -1, out=p_XIJ)
        _matmul_into(out_XLE, p_XIJ, v_XLE[:, :end], start, end)
        if save:
            saved.append(p_XIJ)
    out_THE = out_NHE[tile.start : tile.end]
    torch.index_select(out_XLE.view(-1, width), 0, gather.put_TH.view(-1), out=out_THE.view(-1, width))
    return saved


def _blocks_backward(
    qkv_N3HE: Tensor, tile: Tile, gather: Gather, saved: Iterator[Tensor], dout_NHE: Tensor, dqkv_N3HE: Tensor
) -> None:
    """Write dQ, dK and dV of a tile's tokens to `dqkv_N3HE`."""
    heads, width = dout_NHE.shape[1:]
    q_XLE, k_XLE, v_XLE = (_padded(name, qkv_N3HE, part, tile, gather) for part, name in enumerate("qkv"))
    dout_XLE = _scratch("dout", q_XLE, *q_XLE.shape)
    torch.index_select(dout_NHE.view(-1, width), 0, gather.take_CHL.view(-1), out=dout_XLE.view(-1, width))
    if len(gather.padding_P):
        dout_XLE.view(-1, width).index_fill_(0, gather.padding_P, 0.0)
    dq_XLE, dk_XLE, dv_XLE = (_scratch(name, q_XLE, *q_XLE.shape) for name in ("dq", "dk", "dv"))
    blocks = _blocks(tile)
    p_of_block = [next(saved) for _ in blocks]
    # The last block has all keys: it comes first and writes dK and dV. The other blocks add to them.
    for (start, end), p_XIJ in zip(reversed(blocks), reversed(p_of_block), strict=True):
        q_XIE, dout_XIE = q_XLE[:, start:end], dout_XLE[:, start:end]
        dp_XIJ = torch.bmm(dout_XIE, v_XLE[:, :end].transpose(1, 2), out=_scratch("p", q_XLE, *p_XIJ.shape))
        ds_XIJ = softmax_backward(dp_XIJ, p_XIJ, -1, out=dp_XIJ)
        _matmul_into(dq_XLE, ds_XIJ, k_XLE[:, :end], start, end)
        for left_XIJ, right_XIE, sum_XLE in ((p_XIJ, dout_XIE, dv_XLE), (ds_XIJ, q_XIE, dk_XLE)):
            if end == tile.length:
                torch.bmm(left_XIJ.transpose(1, 2), right_XIE, out=sum_XLE)
            else:
                part_XJE = _scratch("part", q_XLE, len(q_XLE), end, width)
                sum_XLE[:, :end].add_(torch.bmm(left_XIJ.transpose(1, 2), right_XIE, out=part_XJE))
    scaled = ((dq_XLE, width**-0.5), (dk_XLE, width**-0.5), (dv_XLE, 1.0))
    for part, (gradient_XLE, scale) in enumerate(scaled):
        gradient_THE = _scratch("part", q_XLE, tile.end - tile.start, heads, width)
        torch.index_select(gradient_XLE.view(-1, width), 0, gather.put_TH.view(-1), out=gradient_THE.view(-1, width))
        torch.mul(gradient_THE, scale, out=dqkv_N3HE[tile.start : tile.end, part])


def _blocks(tile: Tile) -> list[tuple[int, int]]:
    """First query and end of each block; `end` is also the end of its keys."""
    return [(start, min(start + tile.block, tile.length)) for start in range(0, tile.length, tile.block)]


def _padded(name: str, qkv_N3HE: Tensor, part: int, tile: Tile, gather: Gather) -> Tensor:
    """The queries (part 0), keys (1) or values (2) of a tile, in scratch memory of that name. (X, L, E)"""
    heads, width = qkv_N3HE.shape[2:]
    out_XLE = _scratch(name, qkv_N3HE, tile.count * heads, tile.length, width)
    rows = qkv_N3HE.view(-1, width)[part * heads :]  # so that a query's row number finds the row of that part
    torch.index_select(rows, 0, gather.take_query_CHL.view(-1), out=out_XLE.view(-1, width))
    return out_XLE


def _matmul_into(out_XLE: Tensor, left_XIJ: Tensor, right_XJE: Tensor, start: int, end: int) -> None:
    """out[:, start:end] = left @ right. A block that is the whole tile is written without a copy."""
    if end - start == out_XLE.shape[1]:
        torch.bmm(left_XIJ, right_XJE, out=out_XLE)
    else:
        part_XIE = _scratch("part", left_XIJ, len(left_XIJ), end - start, out_XLE.shape[2])
        out_XLE[:, start:end] = torch.bmm(left_XIJ, right_XJE, out=part_XIE)


def _fused_forward(qkv_N3HE: Tensor, slopes_H: Tensor, tile: Tile, out_NHE: Tensor) -> list[Tensor]:
    """Write O of one long segment to `out_NHE`. Returns what the backward pass reads."""
    out_1HLF, logsumexp = causal_attention_cpu(*_with_bias_channels(qkv_N3HE, slopes_H, tile))
    out_NHE[tile.start : tile.end] = out_1HLF[0, :, :, : out_NHE.shape[2]].transpose(0, 1)
    return [out_1HLF, logsumexp]


def _fused_backward(
    qkv_N3HE: Tensor, slopes_H: Tensor, tile: Tile, saved: Iterator[Tensor], dout_NHE: Tensor, dqkv_N3HE: Tensor
) -> None:
    """Write dQ, dK and dV of one long segment to `dqkv_N3HE`."""
    width = dout_NHE.shape[2]
    dout_LHF = F.pad(dout_NHE[tile.start : tile.end], (0, 2))
    q_1HLF, k_1HLF, v_1HLF = _with_bias_channels(qkv_N3HE, slopes_H, tile)
    gradients = causal_attention_cpu_backward(
        dout_LHF.transpose(0, 1)[None], q_1HLF, k_1HLF, v_1HLF, next(saved), next(saved)
    )
    for part, (gradient_1HLF, scale) in enumerate(zip(gradients, (width**-0.5, 1.0, 1.0), strict=True)):
        gradient_LHE = gradient_1HLF[0, :, :, :width].transpose(0, 1)
        torch.mul(gradient_LHE, scale, out=dqkv_N3HE[tile.start : tile.end, part])


def _with_bias_channels(qkv_N3HE: Tensor, slopes_H: Tensor, tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (1, H, L, F) of one segment, such that q · k = S but for a constant of the row.

    Queries are scaled by 1/√E. Two more channels hold the bias m·pos_j, with pos_j = 64·a + b relative to the
    segment's last token: queries get (64 m, m), keys get (a, b), small whole numbers, and values get zeros.
    """
    _, heads, width = qkv_N3HE.shape[1:]
    qkv_3LHF = _scratch("fused", qkv_N3HE, 3, tile.length, heads, width + 2)
    qkv_3LHF[..., :width] = qkv_N3HE[tile.start : tile.end].transpose(0, 1)
    qkv_3LHF[0, :, :, :width] *= width**-0.5
    qkv_3LHF[0, :, :, width:] = slopes_H[:, None] * slopes_H.new_tensor([64.0, 1.0])
    position_L = tile.position_CL[0]
    coarse_L = torch.floor(position_L / 64)
    qkv_3LHF[1, :, :, width] = coarse_L[:, None]
    qkv_3LHF[1, :, :, width + 1] = (position_L - 64 * coarse_L)[:, None]
    qkv_3LHF[2, :, :, width:] = 0.0
    q_LHF, k_LHF, v_LHF = qkv_3LHF
    return q_LHF.transpose(0, 1)[None], k_LHF.transpose(0, 1)[None], v_LHF.transpose(0, 1)[None]


_scratches: dict[tuple[str, torch.dtype], Tensor] = {}


def _scratch(name: str, like: Tensor, *shape: int) -> Tensor:
    """Memory that is valid until the next call with this name. New memory would cost a page fault each 4 KiB."""
    needed = math.prod(shape)
    memory = _scratches.get((name, like.dtype))
    if memory is None or memory.numel() < needed:
        with torch.inference_mode(False):  # training can't write to a tensor that inference mode made
            memory = _scratches[name, like.dtype] = torch.empty(needed, dtype=like.dtype)
    return memory[:needed].view(shape)


def _causal_mask(like_XIJ: Tensor) -> Tensor:
    """−∞ above the diagonal, else 0, for the largest block so far. (I, I)"""
    queries = like_XIJ.shape[1]
    mask_II = _scratches.get(("causal mask", like_XIJ.dtype))
    if mask_II is None or len(mask_II) < queries:
        with torch.inference_mode(False):
            mask_II = torch.full((queries, queries), float("-inf"), dtype=like_XIJ.dtype).triu(1)
        _scratches["causal mask", like_XIJ.dtype] = mask_II
    return mask_II
