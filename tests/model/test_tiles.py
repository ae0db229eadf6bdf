"""Tiles hold every token once, in its place, and pad no more than they may."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.model.kernels import tiles
from tapestry.model.kernels.tiles import Tile, plan_tiles


@dataclass(frozen=True)
class Case:
    """Segments, the heads, and what is put in place of the module's limits."""

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
        """A position for each token, any: tiles only carry it."""
        return np.random.default_rng(self.seed).integers(0, 5000, sum(self.lengths))

    def plan(self) -> tuple[Tile, ...]:
        with pytest.MonkeyPatch.context() as patch:
            for name, limit in self.limits.items():
                patch.setattr(tiles, name, limit)
            return plan_tiles(np.array(self.lengths), self.position(), self.heads)

    def scores(self, lengths: list[int]) -> int:
        """The scores of a block of a tile of rows of these lengths."""
        longest = max(lengths)
        blocks = -(-longest // self.limits["_ROWS"])
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
            "_ROWS": st.sampled_from([1, 7, 96]),
            "_SCORES": st.sampled_from([1, 5000, 1 << 20, 1 << 20]),
            "_WASTE": st.sampled_from([0, 2000, 10_000, 100_000]),
            "_GATHER": st.sampled_from([0, 30]),
            "LONGEST": st.sampled_from([22, 2048]),
        }
    ),
)


def rows_of(case: Case, plan: tuple[Tile, ...]) -> list[list[tuple[int, int]]]:
    """The rows of each tile, told by the tokens that it covers."""
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
def test_gathers_lay_out_the_padded_segments_and_put_the_tokens_back(case: Case) -> None:
    heads = case.heads
    rows_N3H = torch.arange(sum(case.lengths) * 3 * heads).view(-1, 3, heads)
    rows_NH = torch.arange(sum(case.lengths) * heads).view(-1, heads)
    plan = case.plan()
    for tile, rows in zip(plan, rows_of(case, plan), strict=True):
        if tile.gather is None:
            continue
        padding = set()
        taken = rows_NH.view(-1)[tile.gather.take_CHL].view(tile.count, heads, tile.length)
        taken_qkv = [rows_N3H.view(-1)[part * heads :][tile.gather.take_qkv_CHL].view(taken.shape) for part in range(3)]
        for number, (start, end) in enumerate(rows):
            length = end - start
            assert torch.equal(taken[number, :, :length], rows_NH[start:end].T)
            for part in range(3):
                assert torch.equal(taken_qkv[part][number, :, :length], rows_N3H[start:end, part].T)
            for head in range(heads):
                row = (number * heads + head) * tile.length
                padding |= set(range(row + length, row + tile.length))
        assert torch.equal(taken.view(-1)[tile.gather.put_NH].view(-1, heads), rows_NH[tile.start : tile.end])
        assert len(tile.gather.padding_P) == len(padding)
        assert set(tile.gather.padding_P.tolist()) == padding


@settings(max_examples=25, deadline=None)
@given(case=CASES)
def test_tokens_are_told_how_far_before_their_segments_end_they_are(case: Case) -> None:
    position, segment = case.position().tolist(), case.segment()
    last = {number: position[token] for token, number in enumerate(segment)}
    plan = case.plan()
    for tile, rows in zip(plan, rows_of(case, plan), strict=True):
        for past, (start, end) in zip(tile.past_CL.tolist(), rows, strict=True):
            assert past[: end - start] == [position[token] - last[segment[token]] for token in range(start, end)]


@settings(max_examples=25, deadline=None)
@given(case=CASES)
def test_tokens_that_share_a_row_see_those_before_them_of_their_own_segment_alone(case: Case) -> None:
    segment = case.segment()
    plan = case.plan()
    for tile, rows in zip(plan, rows_of(case, plan), strict=True):
        if tile.hidden_CLL is None:
            assert all(segment[start] == segment[end - 1] for start, end in rows)
            continue
        for hidden, (start, end) in zip(tile.hidden_CLL.tolist(), rows, strict=True):
            for i in range(end - start):
                seen = [j for j in range(tile.length) if hidden[i][j] == 0]
                assert seen == [j for j in range(i + 1) if segment[start + j] == segment[start + i]]
                assert all(hidden[i][j] == -math.inf for j in range(tile.length) if j not in seen)
            assert all(0 in row for row in hidden)  # padding sees something, or it would be no number


@settings(max_examples=25, deadline=None)
@given(case=CASES)
def test_a_tile_holds_as_many_rows_as_the_limits_allow_and_no_more(case: Case) -> None:
    plan = case.plan()
    held = [[end - start for start, end in rows] for rows in rows_of(case, plan)]
    for number, (tile, lengths) in enumerate(zip(plan, held, strict=True)):
        if tile.gather is None:
            continue
        most = case.limits["_SCORES"]
        assert case.padding(lengths) <= case.limits["_WASTE"]
        assert tile.count == 1 or case.scores(lengths) <= most
        if number + 1 < len(plan):
            with_next = [held[number + 1][-1], *lengths]
            assert case.scores(with_next) > most or case.padding(with_next) > case.limits["_WASTE"]


@settings(max_examples=25, deadline=None)
@given(case=CASES)
def test_blocks_are_as_few_as_the_limit_allows_and_of_like_size(case: Case) -> None:
    for tile in case.plan():
        if tile.gather is not None:
            blocks = [row // tile.rows for row in range(tile.length)]
            fewest = -(-tile.length // case.limits["_ROWS"])
            assert tile.rows <= case.limits["_ROWS"]
            assert max(blocks) + 1 <= fewest
            assert tile.rows < tile.length / fewest + 1


@settings(max_examples=25, deadline=None)
@given(case=CASES)
def test_segments_are_gathered_unless_they_are_longer_than_the_longest(case: Case) -> None:
    longest = case.limits["LONGEST"]
    plan = case.plan()
    for tile in plan:
        assert (tile.gather is None) == (tile.length > longest)
        if tile.gather is None:
            assert tile.count == 1
            assert tile.rows == tile.end - tile.start == tile.length
    assert sum(tile.gather is None for tile in plan) == sum(length > longest for length in case.lengths)


def test_a_small_tile_is_the_one_found_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two segments, of one and of two tokens, with two heads: rows (segment, head, position)."""
    monkeypatch.setattr(tiles, "_JOINED", 2)
    (tile,) = plan_tiles(np.array([1, 2]), np.array([7, 3, 5]), 2)
    assert (tile.start, tile.end, tile.count, tile.length, tile.rows) == (0, 3, 2, 2, 2)
    assert tile.past_CL.tolist() == [[0, 0], [-2, 0]]
    assert tile.hidden_CLL is None
    assert tile.gather is not None
    assert tile.gather.take_CHL.tolist() == [0, 0, 1, 1, 2, 4, 3, 5]
    assert tile.gather.take_qkv_CHL.tolist() == [0, 0, 1, 1, 6, 12, 7, 13]
    assert tile.gather.put_NH.tolist() == [0, 2, 4, 6, 5, 7]
    assert tile.gather.padding_P.tolist() == [1, 3]


def test_short_segments_share_a_row_as_found_by_hand() -> None:
    (tile,) = plan_tiles(np.array([1, 2]), np.array([7, 3, 5]), 1)
    assert (tile.count, tile.length) == (1, 3)
    assert tile.past_CL.tolist() == [[0, -2, 0]]
    assert tile.hidden_CLL is not None
    assert tile.hidden_CLL.eq(0).tolist() == [[[True, False, False], [False, True, False], [False, True, True]]]
