"""What any model has to beat: popularity within the domain, and item-kNN."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor
from tqdm import tqdm

from tapestry.core.splits import TRAIN
from tapestry.evaluation.ranking import Integers, Ranks, Score, rank_targets, seen_items
from tapestry.evaluation.settings import EvaluateSettings
from tapestry.sequences.reader import Domain, Sequences

Floats = npt.NDArray[np.float64]

_ITEMS = 1024  # items whose similarity to all others is held at a time


def rank_baselines(sequences: Sequences, targets: Integers, settings: EvaluateSettings) -> dict[str, Ranks]:
    """Ranks of `targets` (indices of interactions) by each baseline: "popularity", "item_knn"."""
    seen, batch = settings.exclude_seen, settings.batch_users
    return {
        "popularity": rank_by_popularity(sequences, targets, seen, batch),
        "item_knn": rank_by_item_knn(sequences, targets, seen, batch, settings.neighbours),
    }


def rank_by_popularity(sequences: Sequences, targets: Integers, exclude_seen: bool, batch_users: int) -> Ranks:
    """Every user gets the domain's items by their training count."""

    def score(wanted: Integers, items: slice) -> Tensor:
        counts = torch.tensor(sequences.train_count[items], dtype=torch.float64)
        return counts.expand(len(wanted), -1)

    return rank_targets(sequences, targets, exclude_seen, _chunks(targets, batch_users, "popularity", score))


def rank_by_item_knn(
    sequences: Sequences, targets: Integers, exclude_seen: bool, batch_users: int, neighbours: int
) -> Ranks:
    """An item's score is the sum of its cosine similarities to the items of the whole history.

    Items are vectors over users (binary, training interactions); each keeps its `neighbours` most similar
    others, of any domain, the first by number where some are equally similar.
    """
    similarity = _item_similarity(sequences, neighbours)

    def score(wanted: Integers, items: slice) -> Tensor:
        whole = Domain("all", 0, sequences.items)
        row, item = seen_items(sequences, targets[wanted], whole)
        ones = np.ones(len(row))
        history = sparse.csr_array((ones, (row, item)), shape=(len(wanted), sequences.items))
        return torch.from_numpy((history @ similarity[:, items]).toarray())

    return rank_targets(sequences, targets, exclude_seen, _chunks(targets, batch_users, "item-kNN", score))


def _item_similarity(sequences: Sequences, neighbours: int) -> Any:
    """Cosine similarities (I, I), sparse: row i holds i's similarity to those that have i as a neighbour."""
    training = sequences.split == TRAIN
    users, items = sequences.owner[training], sequences.item[training]
    shape = (sequences.items, len(sequences.user_id))
    seen = sparse.csr_array((np.ones(len(items), dtype=np.int64), (items, users)), shape=shape)
    seen.data[:] = 1
    by_user, count = seen.T.tocsr(), seen.sum(axis=1)
    parts = []
    for first in range(0, sequences.items, _ITEMS):
        common = (seen[first : first + _ITEMS] @ by_user).tocoo()  # users that two items share
        item, other = common.row + first, common.col
        # The square is a ratio of whole numbers, so that equal similarities are equal after rounding, too.
        square = common.data**2 / (count[item] * count[other])
        apart = item != other
        parts.append(_nearest(item[apart], other[apart], square[apart], neighbours))
    item, other, square = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return sparse.csc_array((np.sqrt(square), (other, item)), shape=(sequences.items, sequences.items))


def _nearest(item: Integers, other: Integers, square: Floats, neighbours: int) -> tuple[Integers, Integers, Floats]:
    """Of triples, each item's `neighbours` first by square, descending, then by the other's number."""
    order = np.lexsort((other, -square, item))
    item = item[order]
    kept = np.arange(len(item)) - np.searchsorted(item, item) < neighbours
    return item[kept], other[order][kept], square[order][kept]


def _chunks(targets: Integers, batch_users: int, name: str, score: Score) -> Iterator[tuple[Integers, Score]]:
    places = np.arange(len(targets))
    for first in tqdm(range(0, len(targets), batch_users), desc=name, unit="batch", leave=False, disable=None):
        yield places[first : first + batch_users], score
