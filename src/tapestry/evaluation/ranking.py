"""Rank of each target among the whole catalogue of its domain, seen items left out if asked."""

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
Score = Callable[[Integers, slice], Tensor]
"""(places in the targets, a slice of the items) → scores (places, items)."""

_SCORES = 1 << 24  # scores held at a time: 64 MiB in float32


@dataclass(frozen=True)
class Ranks:
    """One entry a target: its rank (1 = best) and how many items it was ranked among, itself included."""

    rank: Integers
    candidates: Integers


def rank_targets(
    sequences: Sequences,
    targets: Integers,
    exclude_seen: bool,
    chunks: Iterator[tuple[Integers, Score]],
) -> Ranks:
    """Rank every target by the scores of the chunk that holds it.

    Ranks are counts of the items scored no lower, taken over slices of the catalogue: nothing is sorted, and
    no more than a few million scores are held at a time.

    An item scored equal to the target counts as ranked above it, so that constant scores earn nothing.
    A target that the user has seen before stays a candidate: it is what happened.
    """
    ranks = Ranks(np.zeros(len(targets), dtype=np.int64), np.zeros(len(targets), dtype=np.int64))
    for places, score in chunks:
        domain_of = sequences.domain[targets[places]]
        for index in np.unique(domain_of):
            wanted = places[domain_of == index]
            domain = sequences.domains[index]
            seen = seen_items(sequences, targets[wanted], domain) if exclude_seen else None
            rank, candidates = _rank(wanted, sequences.item[targets[wanted]], domain, seen, score)
            ranks.rank[wanted], ranks.candidates[wanted] = rank, candidates
    return ranks


def _rank(
    wanted: Integers,
    target: npt.NDArray[np.int32],
    domain: Domain,
    seen: tuple[Integers, Integers] | None,
    score: Score,
) -> tuple[Integers, Integers]:
    """Ranks and candidates of targets of one domain."""
    width = max(1, _SCORES // len(wanted))
    starts = range(domain.start, domain.end, width)

    @lru_cache(maxsize=1)
    def scores_from(start: int) -> Tensor:
        return score(wanted, slice(start, min(start + width, domain.end)))

    # The target's score is taken from among the others', since another product might round it otherwise.
    own = torch.empty(len(wanted), 1)
    for start in starts:
        inside = np.flatnonzero((target >= start) & (target < start + width))
        scores = scores_from(start)
        own = own.to(scores)
        own[inside, 0] = scores[inside, target[inside].astype(np.int64) - start]
    rank = np.ones(len(wanted), dtype=np.int64)
    candidates = np.full(len(wanted), domain.end - domain.start)
    if seen is not None:
        row, item = np.unique(np.stack([seen[0], seen[1] + domain.start]), axis=1)
        row, item = row[item != target[row]], item[item != target[row]]
        candidates -= np.bincount(row, minlength=len(wanted))
    for start in reversed(starts):  # the last of above is held still
        # "not below" rather than "at least": a score that is not a number counts against the target.
        ahead = ~(scores_from(start) < own)
        inside = np.flatnonzero((target >= start) & (target < start + width))
        ahead[inside, target[inside].astype(np.int64) - start] = False
        if seen is not None:
            here = (item >= start) & (item < start + width)
            ahead[row[here], item[here] - start] = False
        rank += ahead.sum(1).cpu().numpy()
    return rank, candidates


def seen_items(sequences: Sequences, targets: Integers, domain: Domain) -> tuple[Integers, Integers]:
    """Items of `domain` in the whole history before each target, as (row of targets, item − start)."""
    starts = sequences.offsets[sequences.owner[targets]]
    lengths = targets - starts
    row = np.repeat(np.arange(len(targets)), lengths)
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    item = sequences.item[np.arange(len(row)) - first + np.repeat(starts, lengths)].astype(np.int64)
    inside = (item >= domain.start) & (item < domain.end)
    return row[inside], item[inside] - domain.start
