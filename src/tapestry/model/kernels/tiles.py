"""Tiles: how the segments of a batch are padded together for the CPU kernel (`tiled.py`).

A matrix product a segment would be slow: there are thousands of short segments. Padding all of them to the longest
would compute mostly padding. So segments of similar length are padded together, and a tile is small enough that the
scores of a block stay in the CPU's cache.

    segments → rows     A row is one segment, or several short ones end to end.
    rows → tile         The rows of a tile are padded to the tile's longest row.
    tile → blocks       A block is some consecutive queries of every row, and the keys up to the last of these queries.

Example: segments a, b, c and d of 1, 3, 5 and 6 tokens. Two segments may share a row of up to 4 tokens, and a block
has at most 3 queries (the limits below are larger):

    tokens      0   1 2 3   4 5 6 7 8   9 10 11 12 13 14
    segments    a   b b b   c c c c c   d  d  d  d  d  d        shortest first

    tile, 3 rows × 6 positions             scores of row 2 (segment d): 2 blocks of 3 queries

              position                            key 0 1 2 3 4 5
              0 1 2 3 4 5                   query 0   ■ □ □           block 0: queries 0–2, keys 0–2
        row 0 a b b b · ·                         1   ■ ■ □
        row 1 c c c c c ·                         2   ■ ■ ■
        row 2 d d d d d d                         3   ■ ■ ■ ■ □ □     block 1: queries 3–5, keys 0–5
                                                  4   ■ ■ ■ ■ ■ □
        · is padding                              5   ■ ■ ■ ■ ■ ■

    ■ computed and used, □ computed and masked, blank: not computed. A row computes 27 of its 36 scores, and all three
    rows of a block, and all heads, are one batched matrix product. In row 0, tokens of b do not see a.

Suffixes: N tokens of the batch, G segments, H heads, C rows of a tile, L positions of a row (its length), T tokens of
a tile, P padded positions of all heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tapestry.core.arrays import Integers

# Measured on two Zen 3 cores (`benchmarks/attention.py`). Times change little around these values.
_JOINED = 32  # tokens up to which short segments share a row: a product of 32 by 32 costs little more than of 8 by 8
_BLOCK = 96  # queries a block: fewer compute less above the diagonal, more suit the matrix product
_SCORES = 1 << 20  # scores a block, 4 MiB in float32: two such blocks stay in the last-level cache
_WASTE = 100_000  # scores that padding may add to a tile, instead of the two dozen calls that another tile takes
_GATHER = 30  # scores that take as long as copying one padded position
LONGEST = 2048  # tokens: longer segments use torch's fused kernel, which doesn't store probabilities


@dataclass(frozen=True)
class Gather:
    """Row numbers that copy a tile's tokens from the batch to padded rows, and back.

    take_CHL: row of the token in a (N, H, E) tensor, token·H + head; any row for padding.
    take_query_CHL: row of its query in a (N, 3, H, E) tensor, 3·token·H + head. Its key is H rows further.
    put_TH: row of each token of the tile in a padded (C, H, L, E) tensor.
    padding_P: rows of the padded tensor that are padding.
    """

    take_CHL: Tensor
    take_query_CHL: Tensor
    put_TH: Tensor
    padding_P: Tensor


@dataclass(frozen=True)
class Tile:
    """Tokens [start, end) of the batch as `count` rows of `length` positions, computed `block` queries at a time.

    position_CL: position in the history, minus that of the last token of the same segment; any number for padding.
    mask_CLL: to be added to scores: 0 where a query sees a key, else −∞. None if each row is one segment, so that
    causality alone decides.
    gather: None for one segment longer than LONGEST, which isn't padded.
    """

    start: int
    end: int
    count: int
    length: int
    block: int
    position_CL: Tensor
    mask_CLL: Tensor | None
    gather: Gather | None


def plan_tiles(lengths_G: Integers, position_N: Integers, heads: int) -> tuple[Tile, ...]:
    """Tiles that cover all tokens, those of the longest segments first.

    Args:
        lengths_G: tokens of each segment, ascending.
        position_N: position in the history of each token, segment after segment.
        heads: H, which decides how many rows fit into a tile.
    """
    starts = np.concatenate([[0], np.cumsum(lengths_G)])
    edges = [0]  # the first segment of each row
    while edges[-1] < len(lengths_G):
        full = int(np.searchsorted(starts, starts[edges[-1]] + min(_JOINED, LONGEST), side="right")) - 1
        edges.append(max(edges[-1] + 1, full))
    row_starts = starts[edges]
    row_lengths = np.diff(row_starts)
    last_N = np.repeat(starts[1:] - 1, lengths_G)
    relative_N = (position_N - position_N[last_N]).astype(np.float32)
    tiles, end = [], len(row_lengths)
    while end > 0:
        first = end - _row_count(row_lengths[:end][::-1], heads)
        length = int(row_lengths[first:end].max())
        tiles.append(_tile(row_starts[first : end + 1], length, relative_N, last_N, heads))
        end = first
    return tuple(tiles)


def _row_count(lengths: Integers, heads: int) -> int:
    """How many of these rows, from the first on, one tile takes: all before the first that breaks a limit."""
    longest = np.maximum.accumulate(lengths)
    counts = np.arange(1, len(lengths) + 1)
    wasted = (longest * counts - np.cumsum(lengths)) * (longest + _GATHER) * heads
    scores = counts * heads * _block_size(longest) * longest
    fits = (wasted <= _WASTE) & (scores <= _SCORES) & (longest <= LONGEST)
    return len(counts) if fits.all() else max(1, int(np.argmin(fits)))


def _block_size(length: Integers) -> Integers:
    """Queries a block: at most `_BLOCK`, and such that the blocks of a tile are of about the same size."""
    blocks = -(-length // _BLOCK)
    return -(-length // blocks)


def _tile(starts_C1: Integers, length: int, relative_N: npt.NDArray[np.float32], last_N: Integers, heads: int) -> Tile:
    """One tile.

    Args:
        starts_C1: first token of each row, and the end of the last row.
        relative_N: position of each token, minus that of the last token of its segment.
        last_N: the last token of each token's segment.
    """
    start, end, count = int(starts_C1[0]), int(starts_C1[-1]), len(starts_C1) - 1
    index_L = np.arange(length)
    real_CL = index_L < np.diff(starts_C1)[:, None]
    token_CL = starts_C1[:-1, None] + np.where(real_CL, index_L, 0)
    position_CL = torch.from_numpy(relative_N[token_CL])
    if length > LONGEST:
        return Tile(start, end, count, length, length, position_CL, None, None)
    segment_CL = np.where(real_CL, last_N[token_CL], -1)
    mask_CLL = None
    if (last_N[starts_C1[:-1]] + 1 < starts_C1[1:]).any():  # a row of more than one segment
        seen_CLL = (segment_CL[:, :, None] == segment_CL[:, None]) & np.tri(length, dtype=bool)
        mask_CLL = torch.from_numpy(np.where(seen_CLL, np.float32(0), np.float32(-np.inf)))
    head_H1 = np.arange(heads)[:, None]
    padded_CLH = np.arange(count * heads * length).reshape(count, heads, length).transpose(0, 2, 1)
    arrays = (
        token_CL[:, None] * heads + head_H1,
        token_CL[:, None] * (3 * heads) + head_H1,
        np.ascontiguousarray(padded_CLH[real_CL]),
        padded_CLH[~real_CL].ravel(),
    )
    gather = Gather(*(torch.from_numpy(array) for array in arrays))
    return Tile(start, end, count, length, int(_block_size(np.array(length))), position_CL, mask_CLL, gather)
