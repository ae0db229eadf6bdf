"""What any model has to beat: popularity within the domain, and item-kNN."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from tqdm import tqdm

from tapestry.config import EvaluateConfig
from tapestry.data.sequences import TRAIN, Domain, Sequences
from tapestry.evaluation.ranking import Integers, Ranks, Score, rank_targets, seen_items


def rank_baselines(sequences: Sequences, targets: Integers, config: EvaluateConfig) -> dict[str, Ranks]:
    """Ranks of `targets` (indices of interactions) by each baseline: "popularity", "item_knn"."""
    seen, batch = config.exclude_seen, config.batch_users
    return {
        "popularity": rank_by_popularity(sequences, targets, seen, batch),
        "item_knn": rank_by_item_knn(sequences, targets, seen, batch, config.neighbours),
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
    others (scikit-learn's NearestNeighbors), of any domain.
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
    from sklearn.neighbors import NearestNeighbors  # here: its import takes seconds

    training = sequences.split == TRAIN
    users, items = sequences.owner[training], sequences.item[training]
    shape = (sequences.items, len(sequences.user_id))
    seen = sparse.csr_matrix((np.ones(len(items)), (items, users)), shape=shape)
    seen.data[:] = 1.0
    index = NearestNeighbors(n_neighbors=min(neighbours + 1, sequences.items), metric="cosine").fit(seen)
    distance, neighbour = index.kneighbors(seen)
    item = np.repeat(np.arange(sequences.items), neighbour.shape[1])
    similarity = 1 - distance.ravel()
    kept = (neighbour.ravel() != item) & (similarity > 0)
    return sparse.csc_array(
        (similarity[kept], (neighbour.ravel()[kept], item[kept])), shape=(sequences.items, sequences.items)
    )


def _chunks(targets: Integers, batch_users: int, name: str, score: Score) -> Iterator[tuple[Integers, Score]]:
    places = np.arange(len(targets))
    for first in tqdm(range(0, len(targets), batch_users), desc=name, unit="batch", leave=False, disable=None):
        yield places[first : first + batch_users], score
