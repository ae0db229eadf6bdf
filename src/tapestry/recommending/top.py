"""The best items of a domain for a history, by a model's scores.

Suffixes: B requests of a batch, I items of a slice of the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tapestry.evaluation.scoring import item_scores, last_queries
from tapestry.model.network import Recommender
from tapestry.recommending.catalogue import Catalogue
from tapestry.sequences.batches import Batch
from tapestry.sequences.reader import Domain

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_SCORES = 1 << 22  # scores held at a time: 16 MiB in float32


@dataclass(frozen=True)
class Request:
    """Item numbers of a history in time order, and the place of the domain whose items are wanted next.

    user_id: whose history it is. unknown: how many of its items have no number and were left out.
    """

    user_id: str
    history: Integers
    unknown: int
    domain: int


@dataclass(frozen=True)
class Top:
    """Item numbers, the best first, and their scores (cosines)."""

    item: Integers
    score: Floats


_NOTHING = Top(np.empty(0, dtype=np.int64), np.empty(0))


def top_items(
    model: Recommender,
    catalogue: Catalogue,
    requests: Iterable[Request],
    k: int,
    exclude_seen: bool,
    batch_requests: int,
) -> Iterator[tuple[Request, Top]]:
    """Each request with its first `k` items, in the order of requests; equal scores in the order of item numbers.

    They are scored as evaluation does it: from the last `model.window` items of the history, in the whole catalogue
    of the domain, where `exclude_seen` leaves out the items of the whole history. There are fewer than `k` where
    no more are left. An empty history gives none: the model says nothing about people it knows nothing of.

    Memory is that of one batch of histories and of one chunk of its scores, whatever the requests and items.
    """
    model.eval()
    waiting = iter(requests)
    while batch := list(islice(waiting, batch_requests)):
        told = [place for place, request in enumerate(batch) if len(request.history)]
        tops = dict(zip(told, _tops(model, catalogue, [batch[p] for p in told], k, exclude_seen), strict=True))
        yield from ((request, tops.get(place, _NOTHING)) for place, request in enumerate(batch))


@torch.inference_mode()
def _tops(
    model: Recommender, catalogue: Catalogue, requests: Sequence[Request], k: int, exclude_seen: bool
) -> list[Top]:
    if not requests:
        return []
    query_BK = last_queries(model, _pack(catalogue, requests, model.settings.window))
    tops = [_NOTHING] * len(requests)
    wanted = np.array([request.domain for request in requests])
    for index in np.unique(wanted):
        rows = np.flatnonzero(wanted == index).tolist()
        chosen = query_BK[rows]
        seen = _seen([requests[row].history for row in rows], catalogue.domains[index]) if exclude_seen else None
        for row, top in zip(rows, _best(model, chosen, catalogue.domains[index], seen, k), strict=True):
            tops[row] = top
    return tops


def _pack(catalogue: Catalogue, requests: Sequence[Request], window: int) -> Batch:
    """The end of each history. The domain after each item is that of the next, after the last the one asked for."""
    histories = [request.history[-window:] for request in requests]
    lengths = np.array([len(history) for history in histories])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    item = np.concatenate(histories)
    domain = catalogue.domain_of(item)
    target_domain = np.append(domain[1:], 0)
    target_domain[offsets[1:] - 1] = [request.domain for request in requests]
    return Batch(
        item_N=torch.from_numpy(item),
        domain_N=torch.from_numpy(domain),
        target_N=torch.full((len(item),), -1),  # not known, and not read
        target_domain_N=torch.from_numpy(target_domain),
        position_N=torch.from_numpy(np.arange(len(item)) - np.repeat(offsets[:-1], lengths)),
        offsets_B1=torch.from_numpy(offsets),
    )


def _seen(histories: Sequence[Integers], domain: Domain) -> tuple[Integers, Integers]:
    """The items of `domain` in each history, as (row, item)."""
    row = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    item = np.concatenate(histories)
    inside = (item >= domain.start) & (item < domain.end)
    return row[inside], item[inside]


def _best(
    model: Recommender, query_BK: Tensor, domain: Domain, seen: tuple[Integers, Integers] | None, k: int
) -> list[Top]:
    """The best of a domain for each query, over slices of its items."""
    width = max(1, _SCORES // len(query_BK))
    row, item, score = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0)
    for start in range(domain.start, domain.end, width):
        end = min(start + width, domain.end)
        # What is no number is never recommended, as it never helps a target in evaluation.
        scores_BI = torch.nan_to_num(item_scores(model, query_BK, slice(start, end)), nan=-torch.inf)
        if seen is not None:
            here = (seen[1] >= start) & (seen[1] < end)
            scores_BI[torch.from_numpy(seen[0][here]), torch.from_numpy(seen[1][here] - start)] = -torch.inf
        # Of equal scores topk takes any: so what it finds is the least score to be considered.
        least_B1 = scores_BI.topk(min(k, end - start)).values[:, -1:]
        found = ((scores_BI >= least_B1) & (scores_BI > -torch.inf)).nonzero(as_tuple=True)
        new_row, new_item = (index.cpu().numpy() for index in found)
        row, item = np.append(row, new_row), np.append(item, new_item + start)
        score = np.append(score, scores_BI[found].double().cpu().numpy())
        order = np.lexsort((item, -score, row))
        row, item, score = row[order], item[order], score[order]
        kept = np.arange(len(row)) - np.searchsorted(row, row) < k
        row, item, score = row[kept], item[kept], score[kept]
    ends = np.searchsorted(row, np.arange(len(query_BK) + 1))
    return [Top(item[a:b], score[a:b]) for a, b in pairwise(ends)]
