"""The factor of the learning rate, step by step."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from small import WHOLE_MODEL, random_sequences

from tapestry.parameters import Parameters
from tapestry.training.loop import train
from tapestry.training.schedule import constant, half_cosine, half_linear


def test_half_cosine_is_constant_for_half_of_the_steps_and_then_falls_to_0() -> None:
    factors = [half_cosine(8)(step) for step in range(1, 11)]
    falling = [(1 + math.cos(math.pi * quarter / 4)) / 2 for quarter in (1, 2, 3, 4)]
    assert factors == pytest.approx([1, 1, 1, 1, *falling, 0, 0], abs=1e-15)
    assert factors[-3] == 0.0


def test_half_linear_is_1_for_half_of_the_steps_and_then_falls_to_0() -> None:
    factors = [half_linear(8)(step) for step in range(1, 11)]
    assert factors == [1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0, 0]


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
