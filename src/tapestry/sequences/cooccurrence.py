"""Which items have users in common: what item-kNN and the initial item embeddings are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tapestry.core.arrays import Integers
from tapestry.core.splits import TRAIN
from tapestry.sequences.reader import Sequences

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
