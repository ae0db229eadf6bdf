"""Several processes train one model: the gradients, metrics and weights of one process, and the same bytes twice."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from several_processes import (
    MODEL,
    absent,
    in_processes,
    item_weights,
    other_fingerprint,
    sequences_with_a_lone_last_batch,
    steps_in_float64,
    train_killed,
)
from small import quick_training

from tapestry.parallel.processes import ALONE
from tapestry.parameters import Parameters
from tapestry.training.schedule import plateau
from tapestry.training.settings import TrainSettings

SEQUENCES = sequences_with_a_lone_last_batch()


@pytest.fixture
def settings(parameters: Parameters) -> TrainSettings:
    return quick_training(parameters, schedule="half_cosine", auxiliary="items", negatives=5, average_share=1.0)


PUBLISHED = {
    "schedule": "cosine",
    "warmup_epochs": 1,
    "embedding_weight_decay": 0.5,
    "own_items_as_negatives": False,
}  # parts of published recipes


@pytest.mark.parametrize(("count", "changes"), [(2, {}), (4, {}), (4, PUBLISHED)])
def test_several_processes_take_the_steps_of_one(settings: TrainSettings, count: int, changes: dict[str, Any]) -> None:
    """In float64, so that only an error of the equations shows: after 12 steps all weights agree to seven digits."""
    settings = dataclasses.replace(settings, **changes)
    alone = steps_in_float64(ALONE, SEQUENCES, settings)
    first, *others = in_processes(count, steps_in_float64, SEQUENCES, settings)
    for name, expected in alone.items():
        np.testing.assert_allclose(first[name], expected, rtol=1e-7, atol=1e-10, err_msg=name)
        for other in others:
            if name != "item":
                np.testing.assert_array_equal(other[name], first[name], err_msg=name)


def test_initial_item_embeddings_do_not_depend_on_the_number_of_processes() -> None:
    items = 2 * (1 << 16) + 7  # drawn in several blocks
    expected = item_weights(ALONE, items)
    assert expected is not None
    for count in (2, 3):
        found = in_processes(count, item_weights, items)[0]
        assert torch.equal(found, expected), count


def weights_of(result: dict[str, Any]) -> dict[str, bytes]:
    return {name: x.tobytes() for name, x in result.items() if name != "curve"}


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Weights agree as vectors. Adam makes a large step of a gradient near 0, so single ones may differ by rounding."""
    for name in weights_of(expected):
        assert np.linalg.norm(found[name] - expected[name]) <= 0.02 * np.linalg.norm(expected[name]) + 1e-3, name


def test_a_training_repeats_its_bytes_and_its_curve_is_that_of_one_process(settings: TrainSettings) -> None:
    settings = dataclasses.replace(settings, init="cooccurrence", refit="validation")
    alone = train_killed(ALONE, SEQUENCES, settings, 0.0, None, 0)
    first, second = (in_processes(2, train_killed, SEQUENCES, settings, 0.0, None, 0)[0] for _ in range(2))
    assert alone is not None
    assert weights_of(first) == weights_of(second)
    assert first["curve"] == second["curve"]
    assert first["item.weight"].shape == (SEQUENCES.items, MODEL.width)
    for found, expected in zip(first["curve"], alone["curve"], strict=True):
        assert found == pytest.approx(expected, rel=1e-3)
    assert_close(first, alone)


def test_a_killed_training_goes_on_with_as_many_processes_and_ends_in_the_same_bytes(
    settings: TrainSettings, tmp_path: Path
) -> None:
    undisturbed = in_processes(2, train_killed, SEQUENCES, settings, 0.3, None, 0)[0]
    assert in_processes(2, train_killed, SEQUENCES, settings, 0.3, tmp_path, 9)[0] is None
    resumed = in_processes(2, train_killed, SEQUENCES, settings, 0.3, tmp_path, 10**6)[0]
    assert weights_of(resumed) == weights_of(undisturbed)


def test_a_killed_training_of_several_processes_goes_on_at_the_rate_that_validation_has_lowered(
    settings: TrainSettings, tmp_path: Path
) -> None:
    settings = dataclasses.replace(
        settings, schedule="plateau", plateau_patience=0, stop_by="hr_1", warmup_epochs=1, epochs=4
    )
    undisturbed = in_processes(2, train_killed, SEQUENCES, settings, 0.3, None, 0)[0]
    assert plateau([row["hr_1"] for row in undisturbed["curve"][:3]], 0.1, 0) < 1
    assert in_processes(2, train_killed, SEQUENCES, settings, 0.3, tmp_path, 18)[0] is None  # of 20 steps
    resumed = in_processes(2, train_killed, SEQUENCES, settings, 0.3, tmp_path, 10**6)[0]
    assert weights_of(resumed) == weights_of(undisturbed)


def test_a_killed_training_goes_on_with_another_number_of_processes(settings: TrainSettings, tmp_path: Path) -> None:
    """Killed after 4 steps of one process, 4 of three and 4 of two. Without dropout only rounding differs."""
    alone = train_killed(ALONE, SEQUENCES, settings, 0.0, None, 0)
    assert train_killed(ALONE, SEQUENCES, settings, 0.0, tmp_path, 4) is None
    assert in_processes(3, train_killed, SEQUENCES, settings, 0.0, tmp_path, 4)[0] is None
    assert in_processes(2, train_killed, SEQUENCES, settings, 0.0, tmp_path, 4)[0] is None
    resumed = train_killed(ALONE, SEQUENCES, settings, 0.0, tmp_path, 10**6)
    assert alone is not None
    assert resumed is not None
    for found, expected in zip(resumed["curve"], alone["curve"], strict=True):
        assert found == pytest.approx(expected, rel=1e-3)
    assert_close(resumed, alone)


def test_processes_with_other_parameters_are_refused() -> None:
    for message in in_processes(2, other_fingerprint):
        assert "process 1 on " in message
        assert "has other parameters than process 0 on " in message
        assert "train.epochs is 3, not 2" in message


def test_a_process_that_does_not_answer_is_named() -> None:
    message = in_processes(2, absent, timeout=timedelta(seconds=3))[0]
    assert "waited 3 s in vain" in message
    assert "Rank" in message.partition(" 1 ")[0], message
