"""The model has the mean of the weights after the last epochs: in validation, at the end, and in a refit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from small import WHOLE_MODEL, quick_training, random_sequences
from torch import Tensor

from tapestry.model.network import Recommender
from tapestry.parameters import Parameters
from tapestry.sequences.reader import Sequences
from tapestry.training.average import EpochAverage
from tapestry.training.loop import Training, train
from tapestry.training.settings import TrainSettings

MODEL = dataclasses.replace(WHOLE_MODEL, width=16, state_dim=16)
SEQUENCES = random_sequences(2, users=20)
RISING = [0.1, 0.2, 0.3, 0.4, 0.5]
Weights = dict[str, Tensor]


@pytest.fixture
def settings(parameters: Parameters) -> TrainSettings:
    return quick_training(parameters, epochs=5, patience=5, init="cooccurrence")


def fit(
    settings: TrainSettings,
    share: float,
    sequences: Sequences = SEQUENCES,
    figures: list[float] = RISING,
    **changes: Any,
) -> tuple[Training, list[Weights]]:
    """Return a training, and the weights that were validated after each epoch, whose figures are given."""
    validated: list[Weights] = []
    left: Iterator[float] = iter(figures)

    def validate(model: Recommender) -> dict[str, float]:
        validated.append({name: x.clone() for name, x in model.state_dict().items()})
        return {"ndcg_10": next(left), "hr_10": 0.0, "hr_100": 0.0, "mrr": 0.0}

    changed = dataclasses.replace(settings, average_share=share, **changes)
    return train(sequences, MODEL, changed, validate, lambda epoch: None), validated


def assert_mean(found: Weights, expected: list[Weights]) -> None:
    for name, value in found.items():
        mean = sum((weights[name].double() for weights in expected), torch.zeros_like(value, dtype=torch.float64))
        torch.testing.assert_close(value.double(), mean / len(expected), rtol=1e-5, atol=1e-7, msg=name)


def assert_equal(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize(("share", "first"), [(0.0, 5), (0.1, 5), (0.6, 3), (0.5, 3), (0.49, 4), (1.0, 1)])
def test_figures_and_model_are_of_the_mean_of_the_epochs_that_count(
    settings: TrainSettings, share: float, first: int
) -> None:
    _, plain = fit(settings, 0.0)
    training, averaged = fit(settings, share)
    assert not torch.equal(plain[3]["item.weight"], plain[4]["item.weight"])
    for epoch in range(1, first + 1):
        assert_equal(averaged[epoch - 1], plain[epoch - 1])
    for epoch in range(first + 1, 6):
        assert_mean(averaged[epoch - 1], plain[first - 1 : epoch])
    assert_equal(training.model.state_dict(), averaged[4])


def test_the_best_epochs_mean_is_kept(settings: TrainSettings) -> None:
    training, averaged = fit(settings, 0.8, figures=[0.1, 0.2, 0.3, 0.5, 0.4])
    assert training.best.epoch == 4
    assert_equal(training.model.state_dict(), averaged[3])
    assert not torch.equal(averaged[3]["item.weight"], averaged[4]["item.weight"])


@pytest.mark.parametrize("best", [2, 4])
def test_a_refit_has_the_mean_of_its_own_epochs(settings: TrainSettings, best: int) -> None:
    figures = [0.1] * (best - 1) + [0.5] + [0.1] * (5 - best)
    refit, _ = fit(settings, 0.6, figures=figures, refit="validation")
    alone, _ = fit(settings, 0.6, SEQUENCES.with_validation_trained(), figures)
    assert refit.best.epoch == best
    assert_equal(refit.model.state_dict(), alone.model.state_dict())


def test_whole_numbers_are_of_the_last_epoch() -> None:
    model = Recommender(MODEL, 5, 2)
    average = EpochAverage(2, 1.0)
    for day in (10, 20):
        assert model.trained_until is not None
        model.trained_until.fill_(day)
        average.add(day // 10, model)
    assert average.of(model).trained_until == 20
