"""How often each item was chosen lately.

    n_x(t) = the number of interactions with item x in the `DAYS` days (UTC) before the day of t

Interactions on the day of t itself don't count, so a target never counts itself. A time after all interactions that are
counted is taken as the day after the last of them, and one before 1970 as the first day of 1970.

Suffixes: I items, R requests, P different days, C items.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tapestry.core.arrays import Integers

DAYS = 30
_DAY_MS = 86_400_000
_DAYS_A_ITEM = 1 << 32  # more than any day's number


class RecentCounts:
    """Counts interactions by item and day.

    Args:
        item: the item of each interaction.
        timestamp: its time in ms.
        items: I, how many items there are.
    """

    def __init__(self, item: npt.NDArray[np.integer], timestamp: Integers, items: int) -> None:
        day = np.maximum(timestamp // _DAY_MS, 0)
        self._after = int(day.max(initial=0)) + 1
        self._start_I = np.append(0, np.bincount(item, minlength=items).cumsum())
        # One number of each interaction's item and day: item after item, in time order.
        self._key = np.sort(item.astype(np.int64) * _DAYS_A_ITEM + day)

    @classmethod
    def as_of_one_day(cls, count_I: Integers) -> RecentCounts:
        """Return what gives these counts for every request after January 1970."""
        items = np.arange(len(count_I))
        return cls(np.repeat(items, count_I), np.zeros(int(count_I.sum()), dtype=np.int64), len(items))

    def latest(self) -> Integers:
        """Return n of each item for a request after all interactions, (I,)."""
        count_I: Integers = self._on_days(np.array([self._after]), np.arange(len(self._start_I) - 1))[0]
        return count_I

    def at(self, time_R: Integers, item_C: Integers) -> tuple[Integers, Integers]:
        """Return n of each item on each different day of these times (ms), (P, C), and the row of each time, (R,)."""
        day_P, row_R = np.unique(self._day_of(time_R), return_inverse=True)
        return self._on_days(day_P, item_C), row_R

    def of_pairs(self, time_R: Integers, item_R: Integers) -> Integers:
        """Return n of one item at one time (ms), for each pair of these, (R,)."""
        day_R = self._day_of(time_R)
        first, end = (
            np.searchsorted(self._key, item_R * _DAYS_A_ITEM + np.maximum(day_R - days, 0)) for days in (DAYS, 0)
        )
        return end - first

    def _day_of(self, time_R: Integers) -> Integers:
        """Return the day of each time in ms since 1970, at least 0, at most the one after all interactions."""
        day_R: Integers = np.clip(time_R // _DAY_MS, 0, self._after)
        return day_R

    def _on_days(self, day_P: Integers, item_C: Integers) -> Integers:
        """Return n of each item on each of these days, (P, C).

        Args:
            day_P: days, ascending, each once.
        """
        starts = self._start_I[item_C]
        lengths = self._start_I[item_C + 1] - starts
        column = np.repeat(np.arange(len(item_C)), lengths)
        place = np.arange(len(column)) + np.repeat(starts - (lengths.cumsum() - lengths), lengths)
        day = self._key[place] % _DAYS_A_ITEM
        # An interaction counts on the days from the first one after it until it is too old.
        first, end = (np.searchsorted(day_P, day + days, side="right") for days in (0, DAYS))
        size = (len(day_P) + 1) * len(item_C)
        change = np.bincount(first * len(item_C) + column, minlength=size)
        change -= np.bincount(end * len(item_C) + column, minlength=size)
        count_PC: Integers = change.reshape(len(day_P) + 1, len(item_C))
        for before_C, count_C in pairwise(count_PC):  # NumPy's own sum along the first axis takes six times as long
            count_C += before_C
        return count_PC[:-1]


def log_of_counts(count: Integers, weight: float) -> npt.NDArray[np.float32]:
    """Return weight · log(1 + n) of each count n.

    Each logarithm is computed by the C library, one by one: NumPy's depend on the processor's vectors.
    """
    values = np.array([weight * math.log1p(n) for n in range(int(count.max(initial=0)) + 1)], dtype=np.float32)
    added: npt.NDArray[np.float32] = values[count]
    return added
