"""Tiles hold every token once, at the right position, and pad no more than the limits allow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.model.kernels import tiled, tiles
from tapestry.model.kernels.tiles import Tile, plan_tiles


@dataclass(frozen=True)
class Case:
    """Segment lengths, heads, a seed for positions, and values for the limits of the module."""

    lengths: list[int]
    heads: int
    seed: int
    limits: dict[str, int]

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """The tokens [start, end) of each row: a segment, or as many short ones as may share it."""
        most = min(self.limits["_JOINED"], self.limits["LONGEST"])
        bounds: list[tuple[int, int]] = []
        end = 0
        for length in self.lengths:
            if bounds and end + length - bounds[-1][0] <= most:
                bounds[-1] = (bounds[-1][0], end + length)
            else:
                bounds.append((end, end + length))
            end += length
        return bounds

    def segment(self) -> list[int]:
        """The segment of each token."""
        return [number for number, length in enumerate(self.lengths) for _ in range(length)]

    def position(self) -> npt.NDArray[np.int64]:
        """A random position for each token: tiles only copy it."""
        return np.random.default_rng(self.seed).integers(0, 5000, sum(self.lengths))

    def plan(self) -> tuple[Tile, ...]:
        with pytest.MonkeyPatch.context() as patch:
            for name, limit in self.limits.items():
                patch.setattr(tiles, name, limit)
            return plan_tiles(np.array(self.lengths), self.position(), self.heads)

    def scores(self, lengths: list[int]) -> int:
        """The scores of a block of a tile of rows of these lengths."""
        longest = max(lengths)
        blocks = -(-longest // self.limits["_BLOCK"])
        return len(lengths) * self.heads * -(-longest // blocks) * longest

    def padding(self, lengths: list[int]) -> int:
        """What padding these rows to one length costs, in scores."""
        longest = max(lengths)
        return sum((longest - length) * (longest + self.limits["_GATHER"]) * self.heads for length in lengths)


CASES = st.builds(
    Case,
    lengths=st.lists(st.integers(1, 30), min_size=5, max_size=40).map(sorted),
    heads=st.integers(1, 3),
    seed=st.integers(0, 10_000),
    limits=st.fixed_dictionaries(
        {
            "_JOINED": st.sampled_from([1, 12, 32]),
            "_BLOCK": st.sampled_from([1, 7, 96]),
            "_SCORES": st.sampled_from([1, 5000, 1 << 20, 1 << 20]),
            "_WASTE": st.sampled_from([0, 2000, 10_000, 100_000]),
            "_GATHER": st.sampled_from([0, 30]),
            "LONGEST": st.sampled_from([22, 2048]),
        }
    ),
)


def rows_of(case: Case, plan: tuple[Tile, ...]) -> list[list[tuple[int, int]]]:
    """The tokens [start, end) of the rows of each tile."""
    return [[bounds for bounds in case.bounds if tile.start <= bounds[0] < tile.end] for tile in plan]


@settings(max_examples=25, deadline=None)
@given(case=CASES)
def test_tiles_cover_all_tokens_once_from_the_longest_segments_to_the_shortest(case: Case) -> None:
    plan = case.plan()
    assert [token for tile in reversed(plan) for token in range(tile.start, tile.end)] == list(range(sum(case.lengths)))
    for tile, rows in zip(plan, rows_of(case, plan), strict=True):
        assert tile.count == len(rows)
        assert (tile.start, tile.end) == (rows[0][0], rows[-1][1])  # whole rows
        assert tile.length == max(end - start for start, end in rows)


@settings(max_examples=25, deadline=None)
@given(case=CASES)
def test_gathers_copy_tokens_to_padded_rows_and_back(case: Case) -> None:
    heads = case.heads
    rows_N3H = torch.arange(sum(case.lengths) * 3 * heads).view(-1, 3, heads)
    rows_NH = torch.arange(sum(case.lengths) * heads).view(-1, heads)
    plan = case.plan()
    for tile, rows in zip(plan, rows_of(case, plan), strict=True):
        if tile.gather is None:
            continue
        padding = set()
        taken = rows_NH.view(-1)[tile.gather.take_CHL]
        assert taken.shape == (tile.count, heads, tile.length)
        taken_qkv = [rows_N3H.view(-1)[part * heads :][tile.gather.take_query_CHL] for part in range(3)]
        for number, (start, end) in enumerate(rows):
            length = end - start
            assert torch.equal(taken[number, :, :length], rows_NH[start:end].T)
            for part in range(3):
                assert torch.equal(taken_qkv[part][number, :, :length], rows_N3H[start:end, part].T)
            for head in range(heads):
                row = (number * heads + head) * tile.length
                padding |= set(range(row + length, row + tile.length))
        assert torch.equal(taken.view(-1)[tile.gather.put_TH], rows_NH[tile.start : tile.end])
        assert len(tile.gather.padding_P) == len(padding)
        assert set(tile.gather.padding_P.tolist()) == padding


@settings(max_examples=25, deadline=None)
@given(case=CASES)
def test_positions_are_relative_to_the_last_token_of_the_segment(case: Case) -> None:
    position, segment = case.position().tolist(), case.segment()
    last = {number: position[token] for token, number in enumerate(segment)}
    plan = case.plan()
    for tile, rows in zip(plan, rows_of(case, plan), strict=True):
        for positions, (start, end) in zip(tile.position_CL.tolist(), rows, strict=True):
            assert positions[: end - start] == [position[token] - last[segment[token]] for token in range(start, end)]


@settings(max_examples=25, deadline=None)
@given(case=CASES)
def test_tokens_that_share_a_row_see_only_earlier_tokens_of_their_own_segment(case: Case) -> None:
    segment = case.segment()
    plan = case.plan()
    for tile, rows in zip(plan, rows_of(case, plan), strict=True):
        if tile.mask_CLL is None:
            assert all(segment[start] == segment[end - 1] for start, end in rows)
            continue
        for mask, (start, end) in zip(tile.mask_CLL.tolist(), rows, strict=True):
            for i in range(end - start):
                seen = [j for j in range(tile.length) if mask[i][j] == 0]
                assert seen == [j for j in range(i + 1) if segment[start + j] == segment[start + i]]
                assert all(mask[i][j] == -math.inf for j in range(tile.length) if j not in seen)
            assert all(0 in row for row in mask)  # padding sees a key too: a softmax over nothing is NaN


@settings(max_examples=25, deadline=None)
@given(case=CASES)
def test_a_tile_holds_as_many_rows_as_the_limits_allow(case: Case) -> None:
    plan = case.plan()
    lengths_of_tile = [[end - start for start, end in rows] for rows in rows_of(case, plan)]
    for number, (tile, lengths) in enumerate(zip(plan, lengths_of_tile, strict=True)):
        if tile.gather is None:
            continue
        most = case.limits["_SCORES"]
        assert case.padding(lengths) <= case.limits["_WASTE"]
        assert tile.count == 1 or case.scores(lengths) <= most
        if number + 1 < len(plan):
            with_next = [lengths_of_tile[number + 1][-1], *lengths]
            assert case.scores(with_next) > most or case.padding(with_next) > case.limits["_WASTE"]


@settings(max_examples=25, deadline=None)
@given(case=CASES)
def test_blocks_are_as_few_as_the_limit_allows_and_of_about_the_same_size(case: Case) -> None:
    for tile in case.plan():
        if tile.gather is not None:
            blocks = [row // tile.block for row in range(tile.length)]
            fewest = -(-tile.length // case.limits["_BLOCK"])
            assert tile.block <= case.limits["_BLOCK"]
            assert max(blocks) + 1 <= fewest
            assert tile.block < tile.length / fewest + 1


@settings(max_examples=25, deadline=None)
@given(case=CASES)
def test_segments_are_padded_unless_they_are_longer_than_the_limit(case: Case) -> None:
    longest = case.limits["LONGEST"]
    plan = case.plan()
    for tile in plan:
        assert (tile.gather is None) == (tile.length > longest)
        if tile.gather is None:
            assert tile.count == 1
            assert tile.block == tile.end - tile.start == tile.length
    assert sum(tile.gather is None for tile in plan) == sum(length > longest for length in case.lengths)


def test_a_small_tile_is_the_one_found_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two segments, of one and of two tokens, with two heads: rows (segment, head, position)."""
    monkeypatch.setattr(tiles, "_JOINED", 2)
    (tile,) = plan_tiles(np.array([1, 2]), np.array([7, 3, 5]), 2)
    assert (tile.start, tile.end, tile.count, tile.length, tile.block) == (0, 3, 2, 2, 2)
    assert tile.position_CL.tolist() == [[0, 0], [-2, 0]]
    assert tile.mask_CLL is None
    assert tile.gather is not None
    assert tile.gather.take_CHL.tolist() == [[[0, 0], [1, 1]], [[2, 4], [3, 5]]]
    assert tile.gather.take_query_CHL.tolist() == [[[0, 0], [1, 1]], [[6, 12], [7, 13]]]
    assert tile.gather.put_TH.tolist() == [[0, 2], [4, 6], [5, 7]]
    assert tile.gather.padding_P.tolist() == [1, 3]


def test_short_segments_share_a_row_as_found_by_hand() -> None:
    (tile,) = plan_tiles(np.array([1, 2]), np.array([7, 3, 5]), 1)
    assert (tile.count, tile.length) == (1, 3)
    assert tile.position_CL.tolist() == [[0, -2, 0]]
    assert tile.mask_CLL is not None
    assert tile.mask_CLL.eq(0).tolist() == [[[True, False, False], [False, True, False], [False, True, True]]]


def test_the_example_of_the_module_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments a, b, c and d of 1, 3, 5 and 6 tokens, as drawn in the docstring of `tiles`."""
    monkeypatch.setattr(tiles, "_JOINED", 4)
    monkeypatch.setattr(tiles, "_BLOCK", 3)
    (tile,) = plan_tiles(np.array([1, 3, 5, 6]), np.arange(15), 1)
    assert (tile.count, tile.length, tile.block) == (3, 6, 3)
    assert tile.gather is not None
    assert tile.gather.take_CHL[:, 0].tolist() == [[0, 1, 2, 3, 0, 0], [4, 5, 6, 7, 8, 4], [9, 10, 11, 12, 13, 14]]
    assert tile.gather.padding_P.tolist() == [4, 5, 11]
    blocks = tiled._blocks(tile)
    assert blocks == [(0, 3), (3, 6)]
    assert sum((end - start) * end for start, end in blocks) == 27
    assert tile.mask_CLL is not None
    assert [[int(seen) for seen in row] for row in tile.mask_CLL[0, :4, :4].eq(0)] == [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 1, 1, 1],
    ]
