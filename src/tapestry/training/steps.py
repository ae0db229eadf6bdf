"""The input of a training step. A thread prepares it on the CPU while the step before it runs.

Suffixes: N tokens, R queries, A auxiliary targets, U touched items, T queries of one target domain.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from tapestry.core.arrays import Integers
from tapestry.model.kernels.softmax import DomainTargets, Offsets
from tapestry.model.network import Recommender
from tapestry.model.request_time import Requests
from tapestry.model.segments import Kernel, Segments
from tapestry.sequences.batches import Batch, histories_of
from tapestry.sequences.reader import Sequences
from tapestry.sequences.recent import RecentCounts, log_of_counts
from tapestry.training.auxiliary import Auxiliary

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Step:
    """The input of one training step, or of a process's part of it.

    users: indices of the batch's users. tokens: of the whole step. touched_U: numbers of the items that this part
    reads, each once. batch: its `item_N` are indices into `touched_U`. segments: the order in which the network
    computes the batch's tokens. requests: the queries, first one of each token for the interaction that follows it,
    then those for auxiliary targets. weight_R: the weight of each query in the loss; None if all are 1. targets: one
    entry a target domain.
    """

    users: Integers
    tokens: int
    batch: Batch
    segments: Segments
    touched_U: Tensor
    requests: Requests
    weight_R: Tensor | None
    targets: tuple[DomainTargets, ...]


def prepare_step(
    model: Recommender,
    kernel: Kernel,
    sequences: Sequences,
    users: Integers,
    batch: Batch,
    negatives: int | None,
    generator: np.random.Generator,
    auxiliary: Auxiliary | None = None,
    part: Integers | None = None,
    own_items_as_negatives: bool = True,
) -> Step:
    """Order a batch's tokens for `kernel`, and draw negatives for each target domain of the batch.

    Negatives are drawn uniformly and without replacement, among the domain's items with a training interaction. If
    `negatives` is None or at least their number, all of them are candidates. An item without one is in no loss: as a
    negative alone it would be pushed away from all queries, and rank below chance.

    Args:
        sequences: what the batch was packed from.
        users: indices of the batch's users.
        batch: with item numbers in `item_N`.
        negatives: number of negatives a domain.
        auxiliary: auxiliary targets; None without.
        part: the histories of the batch that this process computes, ascending; by default all. All processes draw the
            same candidates for the whole batch, so the parts' gradients add up to that of the whole.
        own_items_as_negatives: if False, no item of a user's training interactions is a negative of that user's
            queries. All targets, auxiliary ones too, are such items.
    """
    whole_tokens = len(batch.item_N)
    present = np.unique(batch.target_domain_N.numpy())
    if auxiliary is not None:
        present = np.union1d(present, sequences.domain[auxiliary.target_A])
    drawn_of = {index: _draw(sequences.trained_items[index], negatives, generator) for index in present}
    empty = part is not None and len(part) == 0
    if part is not None:
        # A process without a history computes one of another process, and gives its queries no weight.
        part = np.arange(1) if empty else part
        users, (batch, tokens_N) = users[part], histories_of(batch, part)
        auxiliary = None if auxiliary is None else auxiliary.among(tokens_N)
    segments = model.arrange(batch, kernel)
    order_N = segments.order_N.numpy()
    tokens = len(order_N)
    token_R = np.arange(tokens)
    target_R, domain_R, time_R = (
        column.numpy()[order_N] for column in (batch.target_N, batch.target_domain_N, batch.target_time_N)
    )
    weight_R = None
    if auxiliary is not None:
        index_A = auxiliary.target_A
        token_R = np.append(token_R, segments.inverse_N.numpy()[auxiliary.token_A])
        target_R = np.append(target_R, sequences.item[index_A])
        domain_R = np.append(domain_R, sequences.domain[index_A])
        time_R = np.append(time_R, sequences.timestamp[index_A])
        weight_R = torch.ones(len(token_R))
        weight_R[tokens:] = auxiliary.weight
    if empty:
        weight_R = torch.zeros(len(token_R))
    present = np.unique(domain_R)
    drawn = [drawn_of[index] for index in present]
    touched_U, local = np.unique(np.concatenate([batch.item_N.numpy(), target_R, *drawn]), return_inverse=True)
    if not own_items_as_negatives:
        owner_R = np.repeat(np.arange(len(users)), batch.offsets_B1.diff().numpy())[order_N][token_R]
        own = _own_items(sequences, users)
    start = tokens + len(target_R)
    item_N, target_local_R = local[:tokens], local[tokens:start]
    targets = []
    for index, items in zip(present, drawn, strict=True):
        query_T = np.flatnonzero(domain_R == index)
        if own_items_as_negatives:
            hits = _found(target_R[query_T], items)  # accidental hits
        else:
            hits = _hits_of_owners(owner_R[query_T], *own, items)
        arrays = (query_T, target_local_R[query_T], local[start : start + len(items)], *hits)
        weight, offsets = model.settings.recent_weight, None
        if weight:
            offsets = _offsets(sequences.training_counts, weight, time_R[query_T], target_R[query_T], items)
        targets.append(DomainTargets(*(torch.from_numpy(array) for array in arrays), offsets=offsets))
        start += len(items)
    return Step(
        users=users,
        tokens=whole_tokens,
        batch=replace(batch, item_N=torch.from_numpy(item_N)),
        segments=segments,
        touched_U=torch.from_numpy(touched_U),
        requests=Requests(*(torch.from_numpy(array) for array in (token_R, domain_R, time_R))),
        weight_R=weight_R,
        targets=tuple(targets),
    )


def _offsets(recent: RecentCounts, weight: float, time_T: Integers, target_T: Integers, items: Integers) -> Offsets:
    """Return what the recent counts add to the scores of candidates `items` and of the targets."""
    _, count_PC, row_T = recent.at(time_T, items)
    target_count_T = recent.of_pairs(time_T, target_T)
    arrays = (log_of_counts(count_PC, weight), row_T, log_of_counts(target_count_T, weight))
    return Offsets(*(torch.from_numpy(array) for array in arrays))


def _draw(items: Integers, negatives: int | None, generator: np.random.Generator) -> Integers:
    """Draw candidates among a domain's items; return their numbers, ascending."""
    if negatives is None or negatives >= len(items):
        return items
    return np.sort(items[generator.choice(len(items), negatives, replace=False, shuffle=False)])


def _found(wanted: Integers, items: Integers) -> tuple[Integers, Integers]:
    """Return which of the wanted items are among `items` (ascending): indices into `wanted`, and into `items`."""
    place = np.minimum(np.searchsorted(items, wanted), len(items) - 1)
    found = np.flatnonzero(items[place] == wanted)
    return found, place[found]


def _own_items(sequences: Sequences, users: Integers) -> tuple[Integers, Integers]:
    """Return the items of the users' training interactions, user after user: (index into `users`, item) of each."""
    lengths = sequences.train_length[users]
    owner = np.repeat(np.arange(len(users)), lengths)
    return owner, sequences.item[_ranges(sequences.offsets[users], lengths)].astype(np.int64)


def _hits_of_owners(owner_T: Integers, owner: Integers, item: Integers, items: Integers) -> tuple[Integers, Integers]:
    """Return the pairs of a query and a candidate that its user has chosen: indices into T (ascending), and `items`.

    Args:
        owner_T: the user of each query.
        owner, item: by `_own_items`.
        items: the candidates, ascending.
    """
    found, candidate = _found(item, items)
    counts = np.bincount(owner[found], minlength=owner_T.max() + 1)
    firsts = np.cumsum(counts) - counts
    counts_T = counts[owner_T]
    return np.repeat(np.arange(len(owner_T)), counts_T), candidate[_ranges(firsts[owner_T], counts_T)]


def _ranges(starts: Integers, lengths: Integers) -> Integers:
    """Return start, start + 1, …, start + length − 1 of each, one after the other."""
    firsts = np.cumsum(lengths) - lengths
    ranges: Integers = np.arange(lengths.sum()) + np.repeat(starts - firsts, lengths)
    return ranges


def prefetched(items: Iterator[T]) -> Iterator[T]:
    """Yield the same items (None ends them). A thread makes the next item while the caller uses this one."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        following = pool.submit(next, items, None)
        while (item := following.result()) is not None:
            following = pool.submit(next, items, None)
            yield item
