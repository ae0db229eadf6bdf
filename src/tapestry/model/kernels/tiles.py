"""How segments of like length are put together for the CPU: padded tiles that fill the cache, not the memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Integers = npt.NDArray[np.int64]

# Measured on two Zen 3 cores (`benchmarks/attention.py`); all are flat around these values.
_JOINED = 32  # tokens up to which short segments share a row: a product of 32 by 32 costs little more than of 8 by 8
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
    """`count` rows of segments, tokens [start, end), padded to `length` positions; `rows` of them a block.

    past_CL: positions in the history, less that of the segment's last token; of a padding anything.
    hidden_CLL: 0 where a position sees another, else −∞; None where every row is one segment, as causality says it.
    gather: None for one segment longer than LONGEST, which isn't padded.
    """

    start: int
    end: int
    count: int
    length: int
    rows: int
    past_CL: Tensor
    hidden_CLL: Tensor | None
    gather: Gather | None


def plan_tiles(lengths_G: Integers, position_N: Integers, heads: int) -> tuple[Tile, ...]:
    """Tiles that cover the segments, whose lengths ascend."""
    starts = np.concatenate([[0], np.cumsum(lengths_G)])
    edges = [0]  # the first segment of each row
    while edges[-1] < len(lengths_G):
        full = int(np.searchsorted(starts, starts[edges[-1]] + min(_JOINED, LONGEST), side="right")) - 1
        edges.append(max(edges[-1] + 1, full))
    row_starts = starts[edges]
    lengths = np.diff(row_starts)
    last_N = np.repeat(starts[1:] - 1, lengths_G)
    past_N = (position_N - position_N[last_N]).astype(np.float32)
    tiles, end = [], len(lengths)
    while end > 0:
        first = end - _count(lengths[:end][::-1], heads)
        tiles.append(_tile(row_starts[first : end + 1], int(lengths[first:end].max()), past_N, last_N, heads))
        end = first
    return tuple(tiles)


def _count(lengths: Integers, heads: int) -> int:
    """How many of the first rows go into one tile: all that fit, up to the first that wastes too much."""
    widest = np.maximum.accumulate(lengths)
    counts = np.arange(1, len(lengths) + 1)
    wasted = (widest * counts - np.cumsum(lengths)) * (widest + _GATHER) * heads
    fits = (wasted <= _WASTE) & (counts * heads * _rows(widest) * widest <= _SCORES) & (widest <= LONGEST)
    return len(counts) if fits.all() else max(1, int(np.argmin(fits)))


def _rows(length: Integers) -> Integers:
    """Query rows a block, so that blocks of a tile are alike and none is above `_ROWS`."""
    blocks = -(-length // _ROWS)
    return -(-length // blocks)


def _tile(starts_C1: Integers, length: int, past_N: npt.NDArray[np.float32], last_N: Integers, heads: int) -> Tile:
    """The tile of the rows between `starts_C1`. `last_N`: the last token of each token's segment."""
    start, end, count = int(starts_C1[0]), int(starts_C1[-1]), len(starts_C1) - 1
    place_L = np.arange(length)
    real_CL = place_L < np.diff(starts_C1)[:, None]
    token_CL = starts_C1[:-1, None] + np.where(real_CL, place_L, 0)
    past_CL = torch.from_numpy(past_N[token_CL])
    if length > LONGEST:
        return Tile(start, end, count, length, length, past_CL, None, None)
    segment_CL = np.where(real_CL, last_N[token_CL], -1)
    hidden_CLL = None
    if (last_N[starts_C1[:-1]] + 1 < starts_C1[1:]).any():  # a row of more than one segment
        seen_CLL = (segment_CL[:, :, None] == segment_CL[:, None]) & np.tri(length, dtype=bool)
        hidden_CLL = torch.from_numpy(np.where(seen_CLL, np.float32(0), np.float32(-np.inf)))
    head_H1 = np.arange(heads)[:, None]
    padded_CLH = np.arange(count * heads * length).reshape(count, heads, length).transpose(0, 2, 1)
    arrays = (
        (token_CL[:, None] * heads + head_H1).ravel(),
        (token_CL[:, None] * (3 * heads) + head_H1).ravel(),
        padded_CLH[real_CL].ravel(),
        padded_CLH[~real_CL].ravel(),
    )
    gather = Gather(*(torch.from_numpy(array) for array in arrays))
    return Tile(start, end, count, length, int(_rows(np.array(length))), past_CL, hidden_CLL, gather)
