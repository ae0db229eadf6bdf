"""Tiles hold every token once, in its place, and pad no more than they may."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tapestry.model import tiles
from tapestry.model.tiles import Tile, plan_tiles


@dataclass(frozen=True)
class Case:
    """Segments, the heads, and what is put in place of the module's limits."""

    lengths: list[int]
    heads: int
    seed: int
    limits: dict[str, int]

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """The tokens [start, end) of each segment."""
        ends = [sum(self.lengths[: number + 1]) for number in range(len(self.lengths))]
        return [(end - length, end) for end, length in zip(ends, self.lengths, strict=True)]

    def position(self) -> npt.NDArray[np.int64]:
        """A position for each token, any: tiles only carry it."""
        return np.random.default_rng(self.seed).integers(0, 5000, sum(self.lengths))

    def plan(self) -> tuple[Tile, ...]:
        with pytest.MonkeyPatch.context() as patch:
            for name, limit in self.limits.items():
                patch.setattr(tiles, name, limit)
            return plan_tiles(np.array(self.lengths), self.position(), self.heads)

    def padding(self, lengths: list[int]) -> int:
        """What padding these segments to one length costs, in scores."""
        longest = max(lengths)
        return sum((longest - length) * (longest + self.limits["_GATHER"]) * self.heads for length in lengths)


CASES = st.builds(
    Case,
    lengths=st.lists(st.integers(1, 30), min_size=5, max_size=40).map(sorted),
    heads=st.integers(1, 3),
    seed=st.integers(0, 10_000),
    limits=st.fixed_dictionaries(
        {
            "_ROWS": st.sampled_from([1, 7, 96]),
            "_SCORES": st.sampled_from([1, 5000, 1 << 20, 1 << 20]),
            "_WASTE": st.sampled_from([0, 2000, 10_000, 100_000]),
            "_GATHER": st.sampled_from([0, 30]),
            "LONGEST": st.sampled_from([22, 2048]),
        }
    ),
)


def segments_of(case: Case, plan: tuple[Tile, ...]) -> list[list[tuple[int, int]]]:
    """The segments of each tile, told by the tokens that it covers."""
    return [[bounds for bounds in case.bounds if tile.start <= bounds[0] < tile.end] for tile in plan]


@settings(max_examples=25, deadline=None)
@given(case=CASES)
def test_tiles_cover_all_tokens_once_from_the_longest_segments_to_the_shortest(case: Case) -> None:
    plan = case.plan()
    assert [token for tile in reversed(plan) for token in range(tile.start, tile.end)] == list(range(sum(case.lengths)))
    for tile, segments in zip(plan, segments_of(case, plan), strict=True):
        assert tile.count == len(segments)
        assert (tile.start, tile.end) == (segments[0][0], segments[-1][1])  # whole segments
        assert tile.length == max(end - start for start, end in segments)


@settings(max_examples=25, deadline=None)
@given(case=CASES)
def test_gathers_lay_out_the_padded_segments_and_put_the_tokens_back(case: Case) -> None:
    heads = case.heads
    rows_N3H = torch.arange(sum(case.lengths) * 3 * heads).view(-1, 3, heads)
    rows_NH = torch.arange(sum(case.lengths) * heads).view(-1, heads)
    plan = case.plan()
    for tile, segments in zip(plan, segments_of(case, plan), strict=True):
        if tile.gather is None:
            continue
        padding = set()
        taken = rows_NH.view(-1)[tile.gather.take_CHL].view(tile.count, heads, tile.length)
        taken_qkv = [rows_N3H.view(-1)[part * heads :][tile.gather.take_qkv_CHL].view(taken.shape) for part in range(3)]
        for number, (start, end) in enumerate(segments):
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
def test_positions_are_the_tokens_and_of_padding_the_first_tokens(case: Case) -> None:
    position = case.position().tolist()
    plan = case.plan()
    for tile, segments in zip(plan, segments_of(case, plan), strict=True):
        expected = [position[start:end] + [position[start]] * (tile.length - (end - start)) for start, end in segments]
        assert tile.position_CL.tolist() == expected


@settings(max_examples=25, deadline=None)
@given(case=CASES)
def test_a_tile_holds_as_many_segments_as_the_limits_allow_and_no_more(case: Case) -> None:
    plan = case.plan()
    held = [[end - start for start, end in segments] for segments in segments_of(case, plan)]
    for number, (tile, lengths) in enumerate(zip(plan, held, strict=True)):
        if tile.gather is None:
            continue
        most = case.limits["_SCORES"]
        scores_a_segment = case.heads * tile.rows * tile.length
        assert case.padding(lengths) <= case.limits["_WASTE"]
        assert tile.count == 1 or tile.count * scores_a_segment <= most
        if number + 1 < len(plan):
            with_next = [held[number + 1][-1], *lengths]
            too_many = len(with_next) * scores_a_segment > most
            assert too_many or case.padding(with_next) > case.limits["_WASTE"]


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


def test_a_small_tile_is_the_one_found_by_hand() -> None:
    """Two segments, of one and of two tokens, with two heads: rows (segment, head, position)."""
    (tile,) = plan_tiles(np.array([1, 2]), np.array([7, 3, 5]), 2)
    assert (tile.start, tile.end, tile.count, tile.length, tile.rows) == (0, 3, 2, 2, 2)
    assert tile.position_CL.tolist() == [[7, 7], [3, 5]]
    assert tile.gather is not None
    assert tile.gather.take_CHL.tolist() == [0, 0, 1, 1, 2, 4, 3, 5]
    assert tile.gather.take_qkv_CHL.tolist() == [0, 0, 1, 1, 6, 12, 7, 13]
    assert tile.gather.put_NH.tolist() == [0, 2, 4, 6, 5, 7]
    assert tile.gather.padding_P.tolist() == [1, 3]
