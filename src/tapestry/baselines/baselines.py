"""Baselines that a model has to beat: popularity within the domain, at all times or lately, and item-kNN."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tapestry.baselines.interface import Baseline, Requests
from tapestry.baselines.ranks import rank_baseline
from tapestry.baselines.settings import BaselineSettings, PeerSettings, baseline_settings
from tapestry.core.arrays import Integers
from tapestry.core.splits import TRAIN
from tapestry.core.top_k import best_of_each_row
from tapestry.evaluation.ranking import Ranks, ScoreFunction
from tapestry.evaluation.settings import EvaluateSettings
from tapestry.sequences.cooccurrence import item_pairs, training_matrix
from tapestry.sequences.reader import Sequences

_DAY_MS = 86_400_000
_RECENT_DAYS = 90


def rank_baselines(sequences: Sequences, targets: Integers, settings: EvaluateSettings) -> dict[str, Ranks]:
    """Rank `targets` (indices of interactions) by "popularity", "recent_popularity" and "item_knn"."""
    own: dict[str, Baseline] = {
        "popularity": Popularity(),
        "recent_popularity": RecentPopularity(),
        "item_knn": ItemKnn(),
    }
    read = baseline_settings(settings, PeerSettings())
    return {name: rank_baseline(name, baseline, sequences, targets, read) for name, baseline in own.items()}


class Popularity:
    """An item's score is its number of training interactions, the same for every user."""

    def fit(self, sequences: Sequences, settings: BaselineSettings) -> None:
        """Count the training interactions."""
        self._counts = sequences.train_count

    def scorer(self, requests: Requests) -> ScoreFunction:
        """Return the function that gives each request the same counts."""
        return lambda index, items: np.broadcast_to(self._counts[items], (len(index), items.stop - items.start))


class RecentPopularity:
    """An item's score counts its training interactions before the request's day (UTC), in the last `_RECENT_DAYS` days.

    A request after all training interactions is answered as on the day after the last of them.
    """

    def fit(self, sequences: Sequences, settings: BaselineSettings) -> None:
        """Sort the training interactions by time."""
        training = np.flatnonzero(sequences.split == TRAIN)
        training = training[np.argsort(sequences.timestamp[training], kind="stable")]
        self._day, self._item = sequences.timestamp[training] // _DAY_MS, sequences.item[training]
        self._items = sequences.items

    def scorer(self, requests: Requests) -> ScoreFunction:
        """Return the function that counts the interactions before each request's day."""
        day_of = np.minimum(requests.time // _DAY_MS, self._day[-1] + 1)

        def score(index: Integers, items: slice) -> npt.NDArray[np.float64]:
            days, row = np.unique(day_of[index], return_inverse=True)
            counts = np.empty((len(days), items.stop - items.start))
            firsts, lasts = (np.searchsorted(self._day, until) for until in (days - _RECENT_DAYS, days))
            for of_day, first, last in zip(counts, firsts, lasts, strict=True):
                of_day[:] = np.bincount(self._item[first:last], minlength=self._items)[items]
            return counts[row]

        return score


class RecentCounted:
    """An item's score counts its interactions in the 30 days before the request's day, whoever's and of any split.

    A shop knows them by then: where the test lies long after training, counts of training interactions alone are old.
    """

    def fit(self, sequences: Sequences, settings: BaselineSettings) -> None:
        """Learn nothing: all is counted up to a request."""

    def scorer(self, requests: Requests) -> ScoreFunction:
        """Return the function that counts the interactions before each request's day."""

        def score(index: Integers, items: slice) -> Integers:
            candidates = np.arange(items.start, items.stop)
            _, count_PC, row = requests.sequences.known_counts.at(requests.time[index], candidates)
            return count_PC[row]

        return score


class ItemKnn:
    """Item-kNN: an item's score is the sum of its cosine similarities to the items of the whole history.

    An item is a binary vector over users: 1 if the user has a training interaction with it. Only the similarities
    of an item to its `neighbours` most similar items, of any domain, are not 0; of equally similar items the lower
    number comes first.
    """

    def fit(self, sequences: Sequences, settings: BaselineSettings) -> None:
        """Compute the similarities."""
        self._similarity = _item_similarity(sequences, settings.neighbours)

    def scorer(self, requests: Requests) -> ScoreFunction:
        """Return the function that sums the similarities to each history's items."""

        def score(index: Integers, items: slice) -> npt.NDArray[np.float64]:
            row, item = requests.items(index)
            shape = (len(index), self._similarity.shape[0])
            history = sparse.csr_array((np.ones(len(row)), (row, item)), shape=shape)
            scores: npt.NDArray[np.float64] = (history @ self._similarity[:, items]).toarray()
            return scores

        return score


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
