"""How segments of like length are put together for the CPU: padded tiles that fill the cache, not the memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Integers = npt.NDArray[np.int64]

# Measured on two Zen 3 cores (`benchmarks/attention.py`); all are flat around these values.
_ROWS = 96  # query rows a block: fewer waste less above the diagonal, more suit the matrix product
_SCORES = 1 << 20  # scores a block, 4 MiB in float32: two such blocks stay in the last-level cache
_WASTE = 100_000  # scores a tile may pad, against the two dozen calls of one more tile
_GATHER = 30  # scores that the gathers of a padded position cost
LONGEST = 2048  # segments longer than this are left to the fused kernel, which keeps no probabilities


@dataclass(frozen=True)
class Gather:
    """Where the padded rows of a tile (C, H, L) come from, and where they go.

    take_CHL: for each head of each padded position, its place in the rows (token, head);
    take_qkv_CHL: that of its query in the rows (token, query | key | value, head).
    put_NH: for each token and head, its place in the padded rows. padding_P: padded rows that are no token.
    """

    take_CHL: Tensor
    take_qkv_CHL: Tensor
    put_NH: Tensor
    padding_P: Tensor


@dataclass(frozen=True)
class Tile:
    """`count` segments, tokens [start, end), padded to `length` positions; `rows` of them a block.

    position_CL: positions in the history, of a padding that of its segment's first token.
    gather: None for one segment longer than LONGEST, which isn't padded.
    """

    start: int
    end: int
    count: int
    length: int
    rows: int
    position_CL: Tensor
    gather: Gather | None


def plan_tiles(lengths_G: Integers, position_N: Integers, heads: int) -> tuple[Tile, ...]:
    """Tiles that cover the segments, whose lengths ascend."""
    starts = np.concatenate([[0], np.cumsum(lengths_G)])
    tiles, end = [], len(lengths_G)
    while end > 0:
        longest = int(lengths_G[end - 1])
        rows = -(-longest // -(-longest // _ROWS))
        first = end - 1
        if longest <= LONGEST:
            most = max(1, _SCORES // (heads * rows * longest))
            lengths = lengths_G[max(0, end - most) : end][::-1]
            wasted = np.cumsum((longest - lengths) * (longest + _GATHER) * heads)
            first = end - max(1, int(np.searchsorted(wasted, _WASTE, side="right")))
        tiles.append(_tile(first, end, rows, lengths_G, starts, position_N, heads))
        end = first
    return tuple(tiles)


def _tile(
    first: int, end: int, rows: int, lengths_G: Integers, starts: Integers, position_N: Integers, heads: int
) -> Tile:
    lengths_C1, start, stop = lengths_G[first:end, None], int(starts[first]), int(starts[end])
    count, length = end - first, int(lengths_G[end - 1])
    place_L = np.arange(length)
    real_CL = place_L < lengths_C1
    token_CL = starts[first:end, None] + np.where(real_CL, place_L, 0)
    position_CL = torch.from_numpy(position_N[token_CL].astype(np.float32))
    if length > LONGEST:
        return Tile(start, stop, count, length, length, position_CL, None)
    head_H1 = np.arange(heads)[:, None]
    padded_CLH = np.arange(count * heads * length).reshape(count, heads, length).transpose(0, 2, 1)
    arrays = (
        (token_CL[:, None] * heads + head_H1).ravel(),
        (token_CL[:, None] * (3 * heads) + head_H1).ravel(),
        padded_CLH[real_CL].ravel(),
        padded_CLH[~real_CL].ravel(),
    )
    gather = Gather(*(torch.from_numpy(array) for array in arrays))
    return Tile(start, stop, count, length, rows, position_CL, gather)
