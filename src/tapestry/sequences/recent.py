"""How often each item was chosen lately, and what that adds to its score.

    n_x(t) = the number of interactions with item x in the `DAYS` days (UTC) before the day of t
    score = cosine + min(weight · 2^(age / `DAYS`), 1) · log(1 + n_x(t))

Interactions on the day of t itself don't count, so a target never counts itself. A time after all interactions that are
counted is taken as the day after the last of them, and one before 1970 as the first day of 1970. The age is the number
of days from the last training interaction to t, 0 in training: the longer ago a model was trained, the less it knows of
what is chosen now, and the more the counts weigh.

Suffixes: I items, R requests, P different days, C items.
"""

from __future__ import annotations

import math
from decimal import Decimal
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tapestry.core.arrays import Integers

DAYS = 30
_GROWTH = [float(Decimal(2) ** (Decimal(day) / DAYS)) for day in range(DAYS)]  # the same on any processor
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
        self.last_day = int(day.max(initial=0))  # in days since 1970
        self._first_asked, self._after = 0, self.last_day + 1
        self._start_I = np.append(0, np.bincount(item, minlength=items).cumsum())
        # One number of each interaction's item and day: item after item, in time order.
        self._key = np.sort(item.astype(np.int64) * _DAYS_A_ITEM + day)

    @classmethod
    def as_of_one_day(cls, count_I: Integers, last_day: int) -> RecentCounts:
        """Return what gives each request these counts, as on the day after `last_day` (in days since 1970)."""
        items = np.arange(len(count_I))
        made = cls(np.repeat(items, count_I), np.full(int(count_I.sum()), last_day * _DAY_MS), len(items))
        made.last_day, made._first_asked, made._after = last_day, last_day + 1, last_day + 1
        return made

    def latest(self) -> Integers:
        """Return n of each item for a request after all interactions, (I,)."""
        count_I: Integers = self._on_days(np.array([self._after]), np.arange(len(self._start_I) - 1))[0]
        return count_I

    def at(self, time_R: Integers, item_C: Integers) -> tuple[Integers, Integers, Integers]:
        """Return the different days of these times (ms), n of each item on each of them, and the row of each time.

        Returns:
            (P,) days since 1970, ascending; (P, C); (R,).
        """
        day_P, row_R = np.unique(self._day_of(time_R), return_inverse=True)
        return day_P, self._on_days(day_P, item_C), row_R

    def of_pairs(self, time_R: Integers, item_R: Integers) -> Integers:
        """Return n of one item at one time (ms), for each pair of these, (R,)."""
        day_R = self._day_of(time_R)
        first, end = (
            np.searchsorted(self._key, item_R * _DAYS_A_ITEM + np.maximum(day_R - days, 0)) for days in (DAYS, 0)
        )
        return end - first

    def _day_of(self, time_R: Integers) -> Integers:
        """Return the day of each time in ms since 1970, at least 0, at most the one after all interactions."""
        day_R: Integers = np.clip(time_R // _DAY_MS, self._first_asked, self._after)
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
    """Return weight · log(1 + n) of each count n."""
    added: npt.NDArray[np.float32] = (weight * _logs(int(count.max(initial=0)).bit_length())).astype(np.float32)[count]
    return added


def log_of_aged_counts(count_PC: Integers, weight: float, age_P: Integers) -> npt.NDArray[np.float32]:
    """Return min(weight · 2^(age / `DAYS`), 1) · log(1 + n) of each count n, (P, C).

    Args:
        age_P: of the model at each row's day, in days; below 0, on a day of the training period, it counts as 0.
    """
    added_PC = np.empty(count_PC.shape, dtype=np.float32)
    for count_C, age, added_C in zip(count_PC, age_P.tolist(), added_PC, strict=True):
        added_C[:] = log_of_counts(count_C, aged(weight, age))
    return added_PC


def aged(weight: float, age: int) -> float:
    """Return min(weight · 2^(age / `DAYS`), 1) of an age in days; below 0 it counts as 0."""
    doublings, days = divmod(max(age, 0), DAYS)
    return min(math.ldexp(weight * _GROWTH[days], min(doublings, 100)), 1.0)


@cache
def _logs(bits: int) -> npt.NDArray[np.float64]:
    """Return log(1 + n) of all n of so many bits.

    Each is computed by the C library, one by one: NumPy's logarithms depend on the processor's vectors.
    """
    return np.array([math.log1p(n) for n in range(1 << bits)])
