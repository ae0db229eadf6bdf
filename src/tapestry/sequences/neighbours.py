"""The neighbours of each item, the items that have most users in common with it, and what they add to scores.

    c_jx = Σ 1 / log₂(2 + n_u) over the users u with training interactions with both items, n_u the number of u's items
    a_jx = m c_jx / √(c_j c_x),   c_j = Σ_x c_jx,  m the mean of all c_j
    z_x  = Σ_k 0.9^k a_(j_k)x     j_0, j_1, …: the last `_HISTORY` items of a history in x's domain, the latest first
    score of x = cosine + weight · z_x / (1 + z_x)

a is 0 unless x is one of the `NEIGHBOURS_AN_ITEM` items of j's own domain with the largest a_jx. This is item-kNN
(Sarwar et al., WWW 2001) with a weight for each user, and it adds less than `weight`. Sums are sequential and in
float64, and only quotients and roots are taken, so the result has the same bits on any processor.

Suffixes: I items, K neighbours, B requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from tapestry.core.arrays import Floats, Integers

NEIGHBOURS_AN_ITEM = 50
_HISTORY = 32
_DECAY = np.array([float(Decimal("0.9") ** k) for k in range(_HISTORY)])


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The neighbours of each item, the most similar one first.

    item_IK: their numbers, -1 after the last one. similarity_IK: a of this module's equations, 0 there.
    """

    item_IK: npt.NDArray[np.int32]
    similarity_IK: npt.NDArray[np.float32]

    def __deepcopy__(self, memo: dict[int, object]) -> Neighbours:
        """Return itself: copies of a model share the table, which is large and never changed."""
        return self

    def added(self, weight: float, history: tuple[Integers, Integers], items: range) -> tuple[Integers, Floats]:
        """Return what a history's neighbours add to the scores (B, items), where that isn't 0: (place, value).

        Args:
            weight: of the equations.
            history: the items of all requests' histories that are of the domain of `items`, in time order: the row of
                the request, ascending, and the item's number.
            items: the numbers of the items to score, of one domain.

        Returns:
            A place is row · len(items) + column. Each comes once, in ascending order.
        """
        row, item = history
        place = np.searchsorted(row, row, side="right") - 1 - np.arange(len(row))  # k: 0 for the latest
        used = place < _HISTORY
        row, item, place = row[used], item[used], place[used]
        neighbour = self.item_IK[item].astype(np.int64)
        value = _DECAY[place][:, None] * self.similarity_IK[item]
        column, between = np.divmod(neighbour - items.start, items.step)
        inside = (neighbour >= 0) & (between == 0) & (column >= 0) & (column < len(items))
        found, index = np.unique((row[:, None] * len(items) + column)[inside], return_inverse=True)
        total = np.bincount(index, weights=value[inside], minlength=len(found))
        return found, weight * (total / (1 + total))
