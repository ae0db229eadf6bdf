"""Baselines that a model has to beat: popularity within the domain, at all times and lately, and item-kNN."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from tqdm import tqdm

from tapestry.core.splits import TRAIN
from tapestry.core.top_k import best_of_each_row
from tapestry.evaluation.ranking import Integers, Ranks, ScoreFunction, rank_targets, seen_items
from tapestry.evaluation.settings import EvaluateSettings
from tapestry.sequences.cooccurrence import item_pairs, training_matrix
from tapestry.sequences.reader import Domain, Sequences

_DAY_MS = 86_400_000
_RECENT_DAYS = 90


def rank_baselines(sequences: Sequences, targets: Integers, settings: EvaluateSettings) -> dict[str, Ranks]:
    """Rank `targets` (indices of interactions) by "popularity", "recent_popularity" and "item_knn"."""
    seen, batch = settings.exclude_seen, settings.batch_users
    return {
        "popularity": rank_by_popularity(sequences, targets, seen, batch),
        "recent_popularity": rank_by_recent_popularity(sequences, targets, seen, batch),
        "item_knn": rank_by_item_knn(sequences, targets, seen, batch, settings.neighbours),
    }


def rank_by_popularity(sequences: Sequences, targets: Integers, exclude_seen: bool, batch_users: int) -> Ranks:
    """Rank by popularity: an item's score is its number of training interactions, the same for every user."""

    def score(index: Integers, items: slice) -> Tensor:
        counts = torch.tensor(sequences.train_count[items], dtype=torch.float64)
        return counts.expand(len(index), -1)

    return rank_targets(sequences, targets, exclude_seen, _chunks(targets, batch_users, "popularity", score))


def rank_by_recent_popularity(sequences: Sequences, targets: Integers, exclude_seen: bool, batch_users: int) -> Ranks:
    """Rank by recent popularity: an item's score counts its training interactions before the target's day (UTC), in the
    last `_RECENT_DAYS` days.

    A target after all training interactions is ranked as on the day after the last of them.
    """
    training = np.flatnonzero(sequences.split == TRAIN)
    training = training[np.argsort(sequences.timestamp[training], kind="stable")]
    day, item = sequences.timestamp[training] // _DAY_MS, sequences.item[training]
    target_day = np.minimum(sequences.timestamp[targets] // _DAY_MS, day[-1] + 1)

    def score(index: Integers, items: slice) -> Tensor:
        days, row = np.unique(target_day[index], return_inverse=True)
        counts = np.empty((len(days), items.stop - items.start))
        bounds = zip(np.searchsorted(day, days - _RECENT_DAYS), np.searchsorted(day, days), strict=True)
        for of_day, (first, last) in zip(counts, bounds, strict=True):
            of_day[:] = np.bincount(item[first:last], minlength=sequences.items)[items]
        return torch.from_numpy(counts)[row]

    order = np.argsort(target_day, kind="stable")  # so that targets of one day share a chunk
    chunks = _chunks(targets, batch_users, "recent popularity", score, order)
    return rank_targets(sequences, targets, exclude_seen, chunks)


def rank_by_item_knn(
    sequences: Sequences, targets: Integers, exclude_seen: bool, batch_users: int, neighbours: int
) -> Ranks:
    """Rank by item-kNN: an item's score is the sum of its cosine similarities to the items of the whole history.

    An item is a binary vector over users: 1 if the user has a training interaction with it. Only the similarities
    of an item to its `neighbours` most similar items, of any domain, are not 0; of equally similar items the lower
    number comes first.
    """
    similarity = _item_similarity(sequences, neighbours)

    def score(index: Integers, items: slice) -> Tensor:
        whole = Domain("all", 0, sequences.items)
        row, item = seen_items(sequences, targets[index], whole)
        ones = np.ones(len(row))
        history = sparse.csr_array((ones, (row, item)), shape=(len(index), sequences.items))
        return torch.from_numpy((history @ similarity[:, items]).toarray())

    return rank_targets(sequences, targets, exclude_seen, _chunks(targets, batch_users, "item-kNN", score))


def _item_similarity(sequences: Sequences, neighbours: int) -> Any:
    """Return the cosine similarities, a sparse matrix (I, I); entry (i, j) is not 0 if i is a neighbour of j."""
    by_user = training_matrix(sequences)
    by_item = by_user.T.tocsr()
    count = np.diff(by_item.indptr)
    parts = []
    for item, other, common in item_pairs(by_item, by_user):
        # The squared cosine is a ratio of integers: equal similarities stay equal after rounding.
        square = common**2 / (count[item] * count[other])
        parts.append(best_of_each_row(item, other, square, neighbours))
    item, other, square = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return sparse.csc_array((np.sqrt(square), (other, item)), shape=(sequences.items, sequences.items))


def _chunks(
    targets: Integers, batch_users: int, name: str, score: ScoreFunction, order: Integers | None = None
) -> Iterator[tuple[Integers, ScoreFunction]]:
    """Yield the indices of `targets`, `batch_users` at a time, in this order, with a progress bar."""
    index = np.arange(len(targets)) if order is None else order
    for first in tqdm(range(0, len(targets), batch_users), desc=name, unit="batch", leave=False, disable=None):
        yield index[first : first + batch_users], score
