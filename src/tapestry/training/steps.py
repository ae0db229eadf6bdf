"""The input of a training step. A thread prepares it on the CPU while the step before it runs.

Suffixes: N tokens, U touched items, T tokens of one target domain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tapestry.model.kernels.softmax import DomainTargets
from tapestry.model.network import Recommender
from tapestry.model.segments import Kernel, Segments
from tapestry.sequences.batches import Batch
from tapestry.sequences.reader import Domain

Integers = npt.NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Step:
    """The input of one training step.

    users: indices of the batch's users. touched_U: numbers of the items that the step reads, each once. batch: its
    `item_N` are indices into `touched_U`. segments: the order in which the network computes the batch's tokens.
    targets: one entry a target domain.
    """

    users: Integers
    batch: Batch
    segments: Segments
    touched_U: Tensor
    targets: tuple[DomainTargets, ...]


def prepare_step(
    model: Recommender,
    kernel: Kernel,
    users: Integers,
    batch: Batch,
    domains: Sequence[Domain],
    negatives: int | None,
    generator: np.random.Generator,
) -> Step:
    """Order a batch's tokens for `kernel`, and draw negatives for each target domain of the batch.

    Negatives are drawn uniformly and without replacement. If `negatives` is None or at least the number of the
    domain's items, all items of the domain are candidates.

    Args:
        users: indices of the batch's users.
        batch: with item numbers in `item_N`.
        domains: all domains of the sequences.
        negatives: number of negatives a domain.
    """
    segments = model.arrange(batch, kernel)
    order_N = segments.order_N.numpy()
    target_N, target_domain_N = batch.target_N.numpy()[order_N], batch.target_domain_N.numpy()[order_N]
    present = np.unique(target_domain_N)
    drawn = [_draw(domains[index], negatives, generator) for index in present]
    touched_U, local = np.unique(np.concatenate([batch.item_N.numpy(), target_N, *drawn]), return_inverse=True)
    tokens = len(order_N)
    item_N, target_local_N = local[:tokens], local[tokens : 2 * tokens]
    targets, start = [], 2 * tokens
    for index, items in zip(present, drawn, strict=True):
        tokens_T = np.flatnonzero(target_domain_N == index)
        candidate_T = np.minimum(np.searchsorted(items, target_N[tokens_T]), len(items) - 1)
        hit = np.flatnonzero(items[candidate_T] == target_N[tokens_T])  # accidental hits
        arrays = (tokens_T, target_local_N[tokens_T], local[start : start + len(items)], hit, candidate_T[hit])
        targets.append(DomainTargets(*(torch.from_numpy(array) for array in arrays)))
        start += len(items)
    local_batch = replace(batch, item_N=torch.from_numpy(item_N))
    return Step(users, local_batch, segments, torch.from_numpy(touched_U), tuple(targets))


def _draw(domain: Domain, negatives: int | None, generator: np.random.Generator) -> Integers:
    """Draw candidates of a domain; return their item numbers, ascending."""
    size = domain.end - domain.start
    if negatives is None or negatives >= size:
        return np.arange(domain.start, domain.end)
    return np.sort(domain.start + generator.choice(size, negatives, replace=False, shuffle=False))


def prefetched(items: Iterator[T]) -> Iterator[T]:
    """Yield the same items (None ends them). A thread makes the next item while the caller uses this one."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        following = pool.submit(next, items, None)
        while (item := following.result()) is not None:
            following = pool.submit(next, items, None)
            yield item
