"""Rank of each target among all items of its domain, optionally without the items that the user has already seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tapestry.core.arrays import Integers
from tapestry.parallel.shard import WHOLE
from tapestry.sequences.reader import Domain, Sequences

if TYPE_CHECKING:  # to rank by arrays, torch need not be loaded, which takes seconds
    from torch import Tensor

    from tapestry.parallel.processes import Processes

Scores: TypeAlias = "Tensor | np.ndarray[Any, Any]"
ScoreFunction: TypeAlias = "Callable[[Integers, slice], Scores]"
"""(indices into the targets, a slice of the items) → scores (targets, items). The slice is of the shard's items."""

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
    processes: Processes | None = None,
    sharded: bool = False,
) -> Ranks:
    """Rank every target by its scores, chunk by chunk.

    A rank is 1 + the number of items that score at least as high as the target. The items are compared slice by
    slice: nothing is sorted, and at most `_SCORES` scores are in memory.

    An item with the target's score ranks above the target, so a constant score earns nothing.
    A target that the user has seen before stays a candidate, because it is the item that the user chose.

    Args:
        targets: indices of interactions.
        chunks: pairs of indices into `targets` and the function that scores them; every target is in one chunk.
        processes: those that rank together; None for this one alone. Each either has chunks of its own, and scores all
            items: then ranks are the same to the last one as in one process. Or all have all chunks:
        sharded: each process scores only the items of its shard.
    """
    ranks = Ranks(np.zeros(len(targets), dtype=np.int64), np.zeros(len(targets), dtype=np.int64))
    for chunk, score in chunks:
        domain_of = sequences.domain[targets[chunk]]
        for number in np.unique(domain_of):
            index = chunk[domain_of == number]
            domain = sequences.domains[number]
            seen = seen_items(sequences, targets[index], domain) if exclude_seen else None
            item = sequences.item[targets[index]].astype(np.int64)
            rank, candidates = _rank(index, item, domain, seen, score, processes if sharded else None)
            ranks.rank[index], ranks.candidates[index] = rank, candidates
    if sharded or processes is None:
        return ranks
    return Ranks(processes.add_integers(ranks.rank), processes.add_integers(ranks.candidates))


def _rank(
    index: Integers,
    target: Integers,
    domain: Domain,
    seen: tuple[Integers, Integers] | None,
    score: ScoreFunction,
    holders: Processes | None,
) -> tuple[Integers, Integers]:
    """Return ranks and candidates of targets of one domain.

    Args:
        target: their items.
        seen: by `seen_items`.
        holders: the processes that hold the items, each its shard; None if this one holds all.
    """
    candidates = np.full(len(index), domain.end - domain.start)
    row = item = np.empty(0, dtype=np.int64)
    if seen is not None:
        row, item = np.unique(np.stack([seen[0], seen[1] + domain.start]), axis=1)
        row, item = row[item != target[row]], item[item != target[row]]
        candidates -= np.bincount(row, minlength=len(index))
    # From here on, items are rows of this process's shard; those of others are in no slice.
    shard = WHOLE if holders is None else holders.shard
    held = shard.local_slice(domain.start, domain.end)
    target, item = (np.where(shard.holds(items), shard.local(items), -1) for items in (target, item))
    width = max(1, _SCORES // len(index))
    starts = range(held.start, held.stop, width)

    @lru_cache(maxsize=1)
    def scores_from(start: int) -> Any:
        return score(index, slice(start, min(start + width, held.stop)))

    # The target's score comes from the same matrix product as the other scores: another product may round differently.
    # Without items here, its type is still that of the scores, which the sum over the processes wants.
    own = _zeros(scores_from(starts[0]) if starts else score(index, held), len(index))
    for start in starts:
        inside = np.flatnonzero((target >= start) & (target < start + width))
        scores = scores_from(start)
        own[inside, 0] = scores[inside, target[inside] - start]
    if holders is not None:
        holders.add(own)
    ahead_of = np.zeros(len(index), dtype=np.int64)
    for start in reversed(starts):  # the cache still holds the last slice of the loop above
        # "not below" instead of "at least": NaN counts against the target.
        ahead = ~(scores_from(start) < own)
        inside = np.flatnonzero((target >= start) & (target < start + width))
        ahead[inside, target[inside] - start] = False
        here = (item >= start) & (item < start + width)
        ahead[row[here], item[here] - start] = False
        count = ahead.sum(1)
        ahead_of += count if isinstance(count, np.ndarray) else count.cpu().numpy()
    return 1 + (ahead_of if holders is None else holders.add_integers(ahead_of)), candidates


def _zeros(scores: Any, rows: int) -> Any:
    """Return zeros (rows, 1) of the kind, type and device of the scores."""
    return np.zeros((rows, 1), scores.dtype) if isinstance(scores, np.ndarray) else scores.new_zeros((rows, 1))


def seen_items(sequences: Sequences, targets: Integers, domain: Domain) -> tuple[Integers, Integers]:
    """Return the items of `domain` in the whole history before each target, as (row of `targets`, item − start)."""
    starts = sequences.offsets[sequences.user[targets]]
    lengths = targets - starts
    row = np.repeat(np.arange(len(targets)), lengths)
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    item = sequences.item[np.arange(len(row)) - first + np.repeat(starts, lengths)].astype(np.int64)
    inside = (item >= domain.start) & (item < domain.end)
    return row[inside], item[inside] - domain.start
