"""The best entries of each row, with a fixed order of equal scores: no result may rest on how a library breaks ties."""

from __future__ import annotations

import numpy as np

from tapestry.core.arrays import Floats, Integers


def best_of_each_row(row: Integers, item: Integers, score: Floats, k: int) -> tuple[Integers, Integers, Floats]:
    """Return, sorted by row, the `k` entries of each row with the greatest scores; the lower item first if equal.

    Args:
        row, item, score: (n,) each, one entry an index, in any order.
    """
    order = np.lexsort((item, -score, row))
    row, item, score = row[order], item[order], score[order]
    first = np.arange(len(row)) - np.searchsorted(row, row) < k
    return row[first], item[first], score[first]
