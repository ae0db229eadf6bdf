"""The input of a training step. A thread prepares it on the CPU while the step before it runs.

Suffixes: N tokens, R queries, A auxiliary targets, U touched items, T queries of one target domain.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tapestry.model.kernels.softmax import DomainTargets
from tapestry.model.network import Recommender
from tapestry.model.request_time import Requests
from tapestry.model.segments import Kernel, Segments
from tapestry.sequences.batches import Batch, histories_of
from tapestry.sequences.reader import Sequences
from tapestry.training.auxiliary import Auxiliary

Integers = npt.NDArray[np.int64]
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
    start = tokens + len(target_R)
    item_N, target_local_R = local[:tokens], local[tokens:start]
    targets = []
    for index, items in zip(present, drawn, strict=True):
        query_T = np.flatnonzero(domain_R == index)
        candidate_T = np.minimum(np.searchsorted(items, target_R[query_T]), len(items) - 1)
        hit = np.flatnonzero(items[candidate_T] == target_R[query_T])  # accidental hits
        arrays = (query_T, target_local_R[query_T], local[start : start + len(items)], hit, candidate_T[hit])
        targets.append(DomainTargets(*(torch.from_numpy(array) for array in arrays)))
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


def _draw(items: Integers, negatives: int | None, generator: np.random.Generator) -> Integers:
    """Draw candidates among a domain's items; return their numbers, ascending."""
    if negatives is None or negatives >= len(items):
        return items
    return np.sort(items[generator.choice(len(items), negatives, replace=False, shuffle=False)])


def prefetched(items: Iterator[T]) -> Iterator[T]:
    """Yield the same items (None ends them). A thread makes the next item while the caller uses this one."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        following = pool.submit(next, items, None)
        while (item := following.result()) is not None:
            following = pool.submit(next, items, None)
            yield item
