"""Requests: which queries are wanted, and what the model knows of their time.

    query = normalize(h_i + A[period(t)])

t is the time at which the recommendation is asked for: in training and evaluation that of the target. A has a vector
for each period of 30 days, 0 at first, so a query can lean towards what people choose in these weeks. A period without
a training target takes the vector of the last period before it that has one. So a request after the training data
gets the vector of the last trained period, which grows stale.

Suffixes: R requests, K width, P periods.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

PERIOD_MS = 30 * 86_400_000
PERIODS = 1_600  # from 1970 to May 2101; earlier times count as the first period, later ones as the last
LATEST = 2**62  # a time after all others


@dataclass(frozen=True, eq=False)
class Requests:
    """Queries that are wanted: of which token, in which domain and at what time. A token may have several.

    token_R: a token, in the order of `Segments`. domain_R: the target's domain. time_R: the time in ms.
    """

    token_R: Tensor
    domain_R: Tensor
    time_R: Tensor


def period_of(time_R: Tensor) -> Tensor:
    """The period of each time in ms since 1970, (R,)."""
    return time_R.div(PERIOD_MS, rounding_mode="floor").clamp_(0, PERIODS - 1)


class RequestTime(nn.Module):
    """A: a vector for each period."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.period = nn.Embedding(PERIODS, width)
        nn.init.zeros_(self.period.weight)

    def forward(self, time_R: Tensor) -> Tensor:
        """A[period(t)] of each time in ms, (R, K)."""
        vector_RK: Tensor = self.period(period_of(time_R))
        return vector_RK

    @torch.no_grad()
    def fill(self, trained_P: Tensor) -> None:
        """Give each period without a training target the vector of the last one before it that has one.

        Periods before the first trained one take that one's vector.

        Args:
            trained_P: whether a period has a training target; at least one has.
        """
        trained = trained_P.nonzero()[:, 0]
        source_P = trained[(trained_P.cumsum(0) - 1).clamp(min=0)]
        self.period.weight.copy_(self.period.weight[source_P])
