"""The period of a time, and periods without a training target."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tapestry.model.request_time import LATEST, PERIODS, RequestTime, period_of

DAY = 86_400_000


def test_a_period_is_30_days_from_1970_and_times_outside_count_as_the_nearest() -> None:
    times = [-1, 0, 30 * DAY - 1, 30 * DAY, 61 * DAY, PERIODS * 30 * DAY, LATEST]
    assert period_of(torch.tensor(times)).tolist() == [0, 0, 0, 1, 2, PERIODS - 1, PERIODS - 1]


def test_a_new_model_ignores_the_time() -> None:
    assert RequestTime(4)(torch.tensor([0, 90 * DAY, LATEST])).eq(0).all()


@given(st.sets(st.integers(0, PERIODS - 1), min_size=1, max_size=9))
def test_an_untrained_period_takes_the_vector_of_the_last_trained_one_before_it(trained: set[int]) -> None:
    time = RequestTime(2)
    torch.nn.init.normal_(time.period.weight)
    before = time.period.weight.detach().clone()
    mask = torch.zeros(PERIODS, dtype=torch.bool)
    mask[sorted(trained)] = True
    for _ in range(2):  # filling again changes nothing
        time.fill(mask)
        for period in range(PERIODS):
            earlier = [other for other in trained if other <= period]
            source = max(earlier) if earlier else min(trained)
            assert torch.equal(time.period.weight[period], before[source])
