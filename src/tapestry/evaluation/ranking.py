"""Rank of each target among all items of its domain, optionally without the items that the user has already seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tapestry.sequences.reader import Domain, Sequences

Integers = npt.NDArray[np.int64]
ScoreFunction = Callable[[Integers, slice], Tensor]
"""(indices into the targets, a slice of the items) → scores (targets, items)."""

_SCORES = 1 << 24  # most scores in memory at a time: 64 MiB in float32


@dataclass(frozen=True)
class Ranks:
    """One entry a target: its rank (1 = best) and the number of ranked items, the target included."""

    rank: Integers
    candidates: Integers


def rank_targets(
    sequences: Sequences,
    targets: Integers,
    exclude_seen: bool,
    chunks: Iterator[tuple[Integers, ScoreFunction]],
) -> Ranks:
    """Rank every target by its scores, chunk by chunk.

    A rank is 1 + the number of items that score at least as high as the target. The items are compared slice by
    slice: nothing is sorted, and at most `_SCORES` scores are in memory.

    An item with the target's score ranks above the target, so a constant score earns nothing.
    A target that the user has seen before stays a candidate, because it is the item that the user chose.

    Args:
        targets: indices of interactions.
        chunks: pairs of indices into `targets` and the function that scores them; every target is in one chunk.
    """
    ranks = Ranks(np.zeros(len(targets), dtype=np.int64), np.zeros(len(targets), dtype=np.int64))
    for chunk, score in chunks:
        domain_of = sequences.domain[targets[chunk]]
        for number in np.unique(domain_of):
            index = chunk[domain_of == number]
            domain = sequences.domains[number]
            seen = seen_items(sequences, targets[index], domain) if exclude_seen else None
            rank, candidates = _rank(index, sequences.item[targets[index]], domain, seen, score)
            ranks.rank[index], ranks.candidates[index] = rank, candidates
    return ranks


def _rank(
    index: Integers,
    target: npt.NDArray[np.int32],
    domain: Domain,
    seen: tuple[Integers, Integers] | None,
    score: ScoreFunction,
) -> tuple[Integers, Integers]:
    """Return ranks and candidates of targets of one domain: `target` holds their items, `seen` is by `seen_items`."""
    width = max(1, _SCORES // len(index))
    starts = range(domain.start, domain.end, width)

    @lru_cache(maxsize=1)
    def scores_from(start: int) -> Tensor:
        return score(index, slice(start, min(start + width, domain.end)))

    # The target's score comes from the same matrix product as the other scores: another product may round differently.
    own = torch.empty(len(index), 1)
    for start in starts:
        inside = np.flatnonzero((target >= start) & (target < start + width))
        scores = scores_from(start)
        own = own.to(scores)
        own[inside, 0] = scores[inside, target[inside].astype(np.int64) - start]
    rank = np.ones(len(index), dtype=np.int64)
    candidates = np.full(len(index), domain.end - domain.start)
    if seen is not None:
        row, item = np.unique(np.stack([seen[0], seen[1] + domain.start]), axis=1)
        row, item = row[item != target[row]], item[item != target[row]]
        candidates -= np.bincount(row, minlength=len(index))
    for start in reversed(starts):  # the cache still holds the last slice of the loop above
        # "not below" instead of "at least": NaN counts against the target.
        ahead = ~(scores_from(start) < own)
        inside = np.flatnonzero((target >= start) & (target < start + width))
        ahead[inside, target[inside].astype(np.int64) - start] = False
        if seen is not None:
            here = (item >= start) & (item < start + width)
            ahead[row[here], item[here] - start] = False
        rank += ahead.sum(1).cpu().numpy()
    return rank, candidates


def seen_items(sequences: Sequences, targets: Integers, domain: Domain) -> tuple[Integers, Integers]:
    """Return the items of `domain` in the whole history before each target, as (row of `targets`, item − start)."""
    starts = sequences.offsets[sequences.user[targets]]
    lengths = targets - starts
    row = np.repeat(np.arange(len(targets)), lengths)
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    item = sequences.item[np.arange(len(row)) - first + np.repeat(starts, lengths)].astype(np.int64)
    inside = (item >= domain.start) & (item < domain.end)
    return row[inside], item[inside] - domain.start
