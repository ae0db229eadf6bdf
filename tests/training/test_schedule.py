"""The factor of the learning rate, step by step."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import WHOLE_MODEL, random_sequences

from tapestry.parameters import Parameters
from tapestry.training.loop import train
from tapestry.training.schedule import constant, cosine, half_cosine, half_linear, plateau, schedule_of, warmed_up


def test_half_cosine_is_constant_for_half_of_the_steps_and_then_falls_to_0() -> None:
    factors = [half_cosine(8)(step) for step in range(1, 11)]
    falling = [(1 + math.cos(math.pi * quarter / 4)) / 2 for quarter in (1, 2, 3, 4)]
    assert factors == pytest.approx([1, 1, 1, 1, *falling, 0, 0], abs=1e-15)
    assert factors[-3] == 0.0


def test_half_linear_is_1_for_half_of_the_steps_and_then_falls_to_0() -> None:
    factors = [half_linear(8)(step) for step in range(1, 11)]
    assert factors == [1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0, 0]


def test_cosine_falls_from_1_to_0_over_all_steps() -> None:
    factors = [cosine(4)(step) for step in range(1, 7)]
    root = math.sqrt(0.5)
    assert factors == pytest.approx([(1 + root) / 2, 0.5, (1 - root) / 2, 0, 0, 0], abs=1e-15)
    assert factors[3] == 0.0


def test_a_warm_up_rises_along_a_line_and_then_the_schedule_begins() -> None:
    factors = [warmed_up(4, half_linear(4))(step) for step in range(1, 9)]
    assert factors == [0.25, 0.5, 0.75, 1, 1, 1, 0.5, 0]
    assert [warmed_up(0, half_linear(4))(step) for step in range(1, 5)] == [1, 1, 0.5, 0]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1, 1, 1, 1]),
        ("half_cosine", [1, 1, 1, 1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4, 0]),
        ("cosine", [(1 + math.cos(math.pi * eighth / 8)) / 2 for eighth in range(1, 9)]),
        ("plateau", [1, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_the_schedule_of_settings_runs_over_the_epochs_after_the_warm_up(
    parameters: Parameters, schedule: Any, expected: list[float]
) -> None:
    settings = dataclasses.replace(parameters.train, epochs=3, warmup_epochs=1, schedule=schedule)
    factor = schedule_of(settings, steps_a_pass=4)
    assert [factor(step) for step in range(1, 13)] == pytest.approx([0.25, 0.5, 0.75, 1, *expected], abs=1e-15)


@pytest.mark.parametrize(
    ("figures", "patience", "decreases"),
    [
        ([], 0, 0),
        ([0.1, 0.2, 0.3], 0, 0),
        ([0.1, 0.1], 0, 1),  # an equal figure is no better one
        ([0.2, 0.1, 0.1], 2, 0),
        ([0.2, 0.1, 0.1, 0.1], 2, 1),
        ([0.2, 0.1, 0.1, 0.1, 0.1, 0.1], 2, 1),  # counted anew
        ([0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], 2, 2),
        ([0.2, 0.1, 0.1, 0.3, 0.1, 0.1], 2, 0),
        ([math.nan, 0.1, math.nan], 0, 2),
    ],
)
def test_a_plateau_multiplies_the_rate_after_epochs_without_a_better_figure(
    figures: list[float], patience: int, decreases: int
) -> None:
    assert plateau(figures, 0.25, patience) == 0.25**decreases


@hypothesis.settings(max_examples=100, deadline=None)
@given(
    figures=st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3]), max_size=25),
    factor=st.floats(0.1, 1.0, exclude_max=True),  # torch refuses 1
    patience=st.integers(0, 4),
)
def test_a_plateau_has_the_rates_of_torchs_scheduler(figures: list[float], factor: float, patience: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", factor, patience, threshold=0, eps=0)
    for number, figure in enumerate(figures, start=1):
        scheduler.step(figure)
        assert plateau(figures[:number], factor, patience) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_constant_is_1_at_each_step() -> None:
    assert [constant(step) for step in range(1, 30)] == [1.0] * 29


def test_a_training_follows_the_schedule_of_its_settings(parameters: Parameters) -> None:
    """With 2 epochs of one step each: the first is at the full learning rate, the second, at half a cosine, at 0."""
    sequences = random_sequences(0)
    settings = dataclasses.replace(parameters.train, epochs=2, auxiliary="none", batch_users=1000, threads=1)
    scores = iter((0.1, 0.2, 0.1, 0.2))
    trained = {
        schedule: train(
            sequences,
            dataclasses.replace(WHOLE_MODEL, dropout=0.0),
            dataclasses.replace(settings, schedule=schedule),
            lambda _: {"ndcg_10": next(scores), "hr_10": 0.0, "hr_100": 0.0, "mrr": 0.0},
            lambda _: None,
        ).model.state_dict()
        for schedule in ("constant", "half_cosine")
    }
    first = train(
        sequences,
        dataclasses.replace(WHOLE_MODEL, dropout=0.0),
        dataclasses.replace(settings, epochs=1, schedule="constant"),
        lambda _: {"ndcg_10": 0.1, "hr_10": 0.0, "hr_100": 0.0, "mrr": 0.0},
        lambda _: None,
    ).model.state_dict()
    for name, weights in first.items():
        assert torch.equal(trained["half_cosine"][name], weights), name
    assert not torch.equal(trained["constant"]["domain.weight"], first["domain.weight"])
