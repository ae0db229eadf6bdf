"""The items of a domain with the best scores for a history.

Suffixes: B requests of a batch, I items of a slice of the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise

import numpy as np
import torch
from torch import Tensor

from tapestry.core.arrays import Floats, Integers
from tapestry.core.top_k import best_of_each_row
from tapestry.evaluation.scoring import item_scores, last_queries
from tapestry.model.network import Recommender
from tapestry.model.request_time import LATEST
from tapestry.recommending.catalogue import Catalogue
from tapestry.sequences.batches import Batch
from tapestry.sequences.reader import Domain

_SCORES = 1 << 22  # most scores in memory at a time: 16 MiB in float32


@dataclass(frozen=True)
class Request:
    """A user's history (item numbers in time order) and the number of the domain to recommend from.

    unknown: number of the history's items that the model doesn't know and that were skipped. time: of the request, in
    ms since 1970; by default after all training data.
    """

    user_id: str
    history: Integers
    unknown: int
    domain: int
    time: int = LATEST


@dataclass(frozen=True)
class Top:
    """Item numbers, best first, and their scores (`tapestry.evaluation.scoring.item_scores`)."""

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
    """Yield each request with its `k` best items, in the order of requests; of equal scores the lower item comes first.

    Scores are those of evaluation: the model reads the last `model.window` items of the history and scores all items
    of the domain; `exclude_seen` excludes the items of the whole history. A result has fewer than `k` items if the
    domain has no more. An empty history has no result, because the model then has nothing to compute a query from.

    Memory is bounded by a batch of histories and `_SCORES` scores; it doesn't grow with requests or items.
    """
    model.eval()
    remaining = iter(requests)
    while batch := list(islice(remaining, batch_requests)):
        scored = [request for request in batch if len(request.history)]
        tops = iter(_tops(model, catalogue, scored, k, exclude_seen))
        yield from ((request, next(tops) if len(request.history) else _NOTHING) for request in batch)


@torch.inference_mode()
def _tops(
    model: Recommender, catalogue: Catalogue, requests: Sequence[Request], k: int, exclude_seen: bool
) -> list[Top]:
    if not requests:
        return []
    query_BK = last_queries(model, _pack(catalogue, requests, model.settings.window))
    tops = [_NOTHING] * len(requests)
    domain_of = np.array([request.domain for request in requests])
    for number in np.unique(domain_of):
        rows = np.flatnonzero(domain_of == number).tolist()
        chosen, time_B = query_BK[rows], np.array([requests[row].time for row in rows])
        history = _of_domain([requests[row].history for row in rows], catalogue.domains[number])
        seen = history if exclude_seen else None
        score = partial(item_scores, model, chosen, time_B=time_B, recent=catalogue.recent, history=history)
        for row, top in zip(rows, _best(score, len(rows), catalogue.domains[number], seen, k), strict=True):
            tops[row] = top
    return tops


def _pack(catalogue: Catalogue, requests: Sequence[Request], window: int) -> Batch:
    """Pack the last `window` items of each history. The target domain of the last item is the requested domain."""
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
        target_N=torch.full((len(item),), -1),  # unknown, and not read
        target_domain_N=torch.from_numpy(target_domain),
        target_time_N=torch.from_numpy(np.repeat([request.time for request in requests], lengths)),
        position_N=torch.from_numpy(np.arange(len(item)) - np.repeat(offsets[:-1], lengths)),
        offsets_B1=torch.from_numpy(offsets),
    )


def _of_domain(histories: Sequence[Integers], domain: Domain) -> tuple[Integers, Integers]:
    """Return the items of `domain` in each history, in its order, as (row of `histories`, item)."""
    row = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    item = np.concatenate(histories)
    inside = (item >= domain.start) & (item < domain.end)
    return row[inside], item[inside]


def _best(
    scores_of: Callable[[slice], Tensor], queries: int, domain: Domain, seen: tuple[Integers, Integers] | None, k: int
) -> list[Top]:
    """Return the best items of a domain for each query. They are found slice by slice of the domain's items.

    Args:
        scores_of: returns the scores of a slice of the items, (queries, items).
    """
    width = max(1, _SCORES // queries)
    row, item, score = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0)
    for start in range(domain.start, domain.end, width):
        end = min(start + width, domain.end)
        # An item with a score of NaN is never recommended.
        scores_BI = torch.nan_to_num(scores_of(slice(start, end)), nan=-torch.inf)
        if seen is not None:
            here = (seen[1] >= start) & (seen[1] < end)
            scores_BI[torch.from_numpy(seen[0][here]), torch.from_numpy(seen[1][here] - start)] = -torch.inf
        # topk chooses freely among equal scores, so it only gives the least score to consider.
        least_B1 = scores_BI.topk(min(k, end - start)).values[:, -1:]
        found = ((scores_BI >= least_B1) & (scores_BI > -torch.inf)).nonzero(as_tuple=True)
        new_row, new_item = (index.cpu().numpy() for index in found)
        row, item = np.append(row, new_row), np.append(item, new_item + start)
        score = np.append(score, scores_BI[found].double().cpu().numpy())
        row, item, score = best_of_each_row(row, item, score, k)
    ends = np.searchsorted(row, np.arange(queries + 1))
    return [Top(item[a:b], score[a:b]) for a, b in pairwise(ends)]
