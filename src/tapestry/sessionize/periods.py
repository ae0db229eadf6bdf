"""The periods of the temporal split: when validation and test begin."""

from __future__ import annotations

import math
from fractions import Fraction

from tapestry.sessionize.engine import Engine
from tapestry.sessionize.settings import SessionizeSettings

PeriodStarts = tuple[int, int] | None
"""First millisecond of the validation period and of the test period; None without the temporal split."""
_DAY = 86_400_000  # milliseconds


def period_starts(engine: Engine, settings: SessionizeSettings) -> PeriodStarts:
    """Return the first millisecond of the validation and of the test period (temporal split only).

    They are quantiles of the timestamps of all loaded interactions. They must be known before the first rule, because
    the rules look at the training period only.
    """
    if settings.split != "temporal":
        return None
    validation, test = (Fraction(str(share)) for share in (settings.validation_share, settings.test_share))
    days = engine.fetch(
        f"""SELECT day, count(*) AS interactions FROM (SELECT timestamp - timestamp % {_DAY} AS day FROM loaded) AS days
        GROUP BY day ORDER BY day"""
    )
    return _quantile(engine, days, 1 - validation - test), _quantile(engine, days, 1 - test)


def _quantile(engine: Engine, days: list[tuple[int, int]], share: Fraction) -> int:
    """Return the smallest timestamp at which at least `share` of the interactions have happened.

    `days` counts the interactions of each day. It gives the day of the quantile, so that one day's rows are sorted and
    not all.
    """
    number = max(math.ceil(share * sum(interactions for _, interactions in days)), 1)
    day, number_in_day = _day_of(days, number)
    ((timestamp,),) = engine.fetch(
        f"""SELECT timestamp FROM (
            SELECT timestamp, row_number() OVER (ORDER BY timestamp) AS number FROM loaded
            WHERE timestamp >= {day} AND timestamp < {day + _DAY}
        ) AS ordered WHERE number = {number_in_day}"""
    )
    return int(timestamp)


def _day_of(days: list[tuple[int, int]], number: int) -> tuple[int, int]:
    """Return the day of interaction `number` in time order (from 1), and its number among the interactions of that
    day."""
    for day, interactions in days:
        if number <= interactions:
            return day, number
        number -= interactions
    raise ValueError("the number is larger than the count of interactions")
