"""Rank of each target among the whole catalogue of its domain, seen items left out if asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tapestry.data.sequences import Domain, Sequences

Integers = npt.NDArray[np.int64]
Score = Callable[[Integers, int, Domain], Tensor]
"""(places in the targets, the domain's index, the domain) → scores (places, items of the domain)."""


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

    An item scored equal to the target counts as ranked above it, so that constant scores earn nothing.
    A target that the user has seen before stays a candidate: it is what happened.
    """
    ranks = Ranks(np.zeros(len(targets), dtype=np.int64), np.zeros(len(targets), dtype=np.int64))
    for places, score in chunks:
        domain_of = sequences.domain[targets[places]]
        for index in np.unique(domain_of):
            wanted = places[domain_of == index]
            domain = sequences.domains[index]
            scores = score(wanted, int(index), domain)
            target = torch.from_numpy(sequences.item[targets[wanted]].astype(np.int64) - domain.start)
            target = target.to(scores.device)[:, None]
            own = scores.gather(1, target)
            if exclude_seen:
                row, item = seen_items(sequences, targets[wanted], domain)
                seen = torch.zeros_like(scores, dtype=torch.bool)
                seen[torch.from_numpy(row).to(scores.device), torch.from_numpy(item).to(scores.device)] = True
                scores = scores.masked_fill(seen.scatter(1, target, False), float("-inf"))
            # "not below" rather than "at least": a score that is not a number counts against the target.
            ranks.rank[wanted] = (~(scores < own)).sum(1).cpu().numpy()
            ranks.candidates[wanted] = (scores != float("-inf")).sum(1).cpu().numpy()
    return ranks


def seen_items(sequences: Sequences, targets: Integers, domain: Domain) -> tuple[Integers, Integers]:
    """Items of `domain` in the whole history before each target, as (row of targets, item − start)."""
    starts = sequences.offsets[sequences.owner[targets]]
    lengths = targets - starts
    row = np.repeat(np.arange(len(targets)), lengths)
    first = np.repeat(np.cumsum(lengths) - lengths, lengths)
    item = sequences.item[np.arange(len(row)) - first + np.repeat(starts, lengths)].astype(np.int64)
    inside = (item >= domain.start) & (item < domain.end)
    return row[inside], item[inside] - domain.start
