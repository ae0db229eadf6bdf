"""Which items have users in common: what item-kNN, the initial item embeddings and `Neighbours` are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tapestry.core.arrays import Floats, Integers
from tapestry.core.splits import TRAIN
from tapestry.core.top_k import best_of_each_row
from tapestry.sequences.neighbours import NEIGHBOURS_AN_ITEM, Neighbours
from tapestry.sequences.reader import Sequences, domain_of_each_item

_ITEMS = 1024  # items whose common users with all other items are in memory at a time


def training_matrix(sequences: Sequences) -> Any:
    """Return X, sparse (users, items) of int64: 1 if the user has a training interaction with the item."""
    training = sequences.split == TRAIN
    users, items = sequences.user[training], sequences.item[training]
    shape = (len(sequences.user_id), sequences.items)
    matrix = sparse.csr_array((np.ones(len(items), dtype=np.int64), (users, items)), shape=shape)
    matrix.data[:] = 1  # also where a user has an item several times
    return matrix


def item_pairs(by_item: Any, by_user: Any) -> Iterator[tuple[Integers, Integers, npt.NDArray[Any]]]:
    """Yield the entries of the product by_item · by_user of two different items, for some rows at a time.

    Args:
        by_item: sparse (items, users), the transpose of `training_matrix`, whose entries may be weighted.
        by_user: sparse (users, items), `training_matrix`.

    Yields:
        (item, other, value): for each pair with users in common. Without weights the value is their number.
    """
    for start in range(0, by_item.shape[0], _ITEMS):
        block = (by_item[start : start + _ITEMS] @ by_user).tocoo()
        item, other = block.row + start, block.col
        different = item != other
        yield item[different], other[different], block.data[different]


def weighted_pairs(sequences: Sequences) -> tuple[Floats, Iterator[tuple[Integers, Integers, Floats]]]:
    """Return how much two items have in common, where a user of many items counts less.

    c_ij = Σ 1 / log₂(2 + n_u) over the users u with training interactions with both items, n_u the number of u's items.

    Returns:
        c_i = Σ_j c_ij of each item, (I,), and what yields (i, j, c_ij) of each pair with users in common.
    """
    by_user = training_matrix(sequences)
    count = np.diff(by_user.indptr)
    weight = np.array([1 / math.log2(2 + n) for n in range(int(count.max(initial=0)) + 1)])[count]
    by_item = by_user.T.tocsr().astype(np.float64)
    by_item.data = weight[by_item.indices]  # an entry is the user's weight
    total_I = by_item @ (count - 1.0)  # a user of n items gives each of them n − 1 common users
    return total_I, item_pairs(by_item, by_user)


def neighbours_of(sequences: Sequences) -> Neighbours:
    """Find the neighbours of each item in its own domain; of equally similar items the lower number comes first."""
    total_I, pairs = weighted_pairs(sequences)
    mean = math.fsum(total_I) / sequences.items
    domain_I = domain_of_each_item(sequences.domains)
    item_IK = np.full((sequences.items, NEIGHBOURS_AN_ITEM), -1, dtype=np.int32)
    similarity_IK = np.zeros((sequences.items, NEIGHBOURS_AN_ITEM), dtype=np.float32)
    for item, other, common in pairs:
        own = domain_I[item] == domain_I[other]
        item, other, common = item[own], other[own], common[own]
        similarity = mean * common / np.sqrt(total_I[item] * total_I[other])
        item, other, similarity = best_of_each_row(item, other, similarity, NEIGHBOURS_AN_ITEM)
        place = np.arange(len(item)) - np.searchsorted(item, item)
        item_IK[item, place], similarity_IK[item, place] = other, similarity
    return Neighbours(item_IK, similarity_IK)
