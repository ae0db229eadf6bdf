"""The bootstrap against plain loops, and the interval's coverage."""

from __future__ import annotations

import numpy as np
import pytest

from tapestry.core.arrays import Floats, Integers
from tapestry.evaluation.comparison import Change, relative_changes


def relative_change(ours: Floats, theirs: Floats, user: Integers, seed: int = 0) -> Change:
    """Compare one metric."""
    return relative_changes({"metric": ours}, {"metric": theirs}, user, seed)["metric"]


def test_equal_models_do_not_differ() -> None:
    value = np.random.default_rng(0).uniform(size=(1, 50))
    change = relative_change(value, value.copy(), np.arange(50))
    assert (change.change, change.low, change.high) == (0, 0, 0)


def test_a_model_better_by_a_fifth_for_every_user() -> None:
    theirs = np.random.default_rng(0).uniform(0.1, 1, size=(1, 60))
    change = relative_change(1.2 * theirs, theirs, np.arange(60) // 2)
    assert [change.change, change.low, change.high] == pytest.approx([0.2, 0.2, 0.2])


def test_the_interval_is_that_of_plain_loops() -> None:
    """Users with several targets are drawn whole; the seeds of each model are drawn too."""
    generator = np.random.default_rng(1)
    user = np.sort(generator.integers(0, 40, 90))
    user = np.unique(user, return_inverse=True)[1]
    ours, theirs = generator.uniform(size=(3, 90)), generator.uniform(size=(2, 90))
    ours[1] += 0.3
    targets = [np.flatnonzero(user == number).tolist() for number in range(user.max() + 1)]
    ratios = []
    for _ in range(4000):
        drawn = [target for number in generator.integers(0, len(targets), len(targets)) for target in targets[number]]
        means = []
        for model in (ours, theirs):
            rows = generator.integers(0, len(model), len(model))
            means.append(np.mean([model[row, drawn].mean() for row in rows]))
        ratios.append(means[0] / means[1] - 1)
    change = relative_change(ours, theirs, user)
    assert change.change == pytest.approx(ours.mean() / theirs.mean() - 1)
    assert [change.low, change.high] == pytest.approx(np.quantile(ratios, [0.025, 0.975]), abs=0.02)


def test_metrics_that_are_compared_together_have_the_intervals_of_each_alone() -> None:
    generator = np.random.default_rng(3)
    user = np.arange(70) // 2
    ours, theirs = ({metric: generator.uniform(size=(3, 70)) for metric in ("a", "b")} for _ in range(2))
    together = relative_changes(ours, theirs, user)
    assert together == {metric: relative_change(ours[metric], theirs[metric], user) for metric in ("a", "b")}


def test_the_interval_has_the_true_change_19_times_in_20() -> None:
    generator = np.random.default_rng(2)
    inside = 0
    for trial in range(100):
        theirs = generator.exponential(1, size=(1, 200))
        ours = theirs * generator.exponential(1.1, size=(1, 200))  # E[ours] / E[theirs] = 1.1
        change = relative_change(ours, theirs, np.arange(200), seed=trial)
        inside += change.low <= 0.1 <= change.high
    assert 88 <= inside <= 100
