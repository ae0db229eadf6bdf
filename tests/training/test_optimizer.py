"""The optimizer of a whole model, compared with torch's AdamW and with a first step computed by hand."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from small import WHOLE_MODEL, all_in_training, random_sequences

from tapestry.model.loss import domain_softmax_loss
from tapestry.model.network import Recommender
from tapestry.parameters import Parameters
from tapestry.sequences.batches import pack
from tapestry.training.optimizer import Optimizer
from tapestry.training.schedule import Schedule, constant, half_cosine
from tapestry.training.settings import TrainSettings
from tapestry.training.steps import Step, prepare_step

RATE, DECAY, EMBEDDING_DECAY = 0.01, 0.2, 0.3


@pytest.fixture
def settings(parameters: Parameters) -> TrainSettings:
    return dataclasses.replace(
        parameters.train, learning_rate=RATE, weight_decay=DECAY, embedding_weight_decay=EMBEDDING_DECAY
    )


def is_linear_weight(name: str) -> bool:
    module, kind = name.split(".")[-2:]
    return kind == "weight" and module in {"project", "output", "gate"}


def random_model(items: int, domains: int) -> Recommender:
    """A model in float64, without dropout, with random parameters, biases and norms too."""
    torch.manual_seed(0)
    model = Recommender(WHOLE_MODEL, items, domains).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


def test_the_first_step_equals_the_one_computed_by_hand(settings: TrainSettings) -> None:
    """Adam's first step is the learning rate times the gradient's sign; weight decay is applied before."""
    model = random_model(items=6, domains=2)
    before = copy.deepcopy(model.state_dict())
    optimizer = Optimizer(model, settings)
    touched = torch.tensor([4, 1])
    read = optimizer.read(touched)
    assert torch.equal(read, before["item.weight"][touched])
    signs = {name: torch.randn_like(parameter).sign() for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        if name != "item.weight":
            parameter.grad = signs[name] * (0.5 + torch.rand_like(parameter))
    read.backward(signs["item.weight"][touched] * (0.5 + torch.rand_like(read)))
    optimizer.step()
    for name, parameter in model.named_parameters():
        if name == "item.weight":
            expected = before[name].clone()
            expected[touched] *= 1 - RATE * EMBEDDING_DECAY
            expected[touched] -= RATE * signs[name][touched]
        else:
            expected = before[name] * (1 - RATE * DECAY if is_linear_weight(name) else 1) - RATE * signs[name]
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-8)
        assert parameter.grad is None
    others = [0, 2, 3, 5]
    assert torch.equal(model.item.weight[others], before["item.weight"][others])


def steps_that_touch_all(model: Recommender, count: int) -> list[Step]:
    steps = []
    for seed in range(count):
        sequences = all_in_training(random_sequences(seed, users=40))
        batch = pack(sequences, sequences.offsets[:-1], sequences.offsets[1:] - 1)
        users = np.arange(len(sequences.user_id))
        steps.append(prepare_step(model, "tiled", sequences, users, batch, None, np.random.default_rng(seed)))
    return steps


@pytest.mark.parametrize("schedule", [constant, half_cosine(4)])
def test_training_steps_that_touch_all_items_equal_adamw(settings: TrainSettings, schedule: Schedule) -> None:
    model = random_model(items=30, domains=3)
    reference = copy.deepcopy(model)
    named = list(reference.named_parameters())
    adamw = torch.optim.AdamW(
        [
            {"params": [p for name, p in named if is_linear_weight(name)], "weight_decay": DECAY},
            {"params": [reference.item.weight], "weight_decay": EMBEDDING_DECAY},
            {
                "params": [p for name, p in named if not is_linear_weight(name) and name != "item.weight"],
                "weight_decay": 0.0,
            },
        ],
        lr=RATE,
    )
    optimizer = Optimizer(model, settings, schedule)
    for number, step in enumerate(steps_that_touch_all(model, 3), start=1):
        assert step.touched_U.tolist() == list(range(30))
        table_UK = optimizer.read(step.touched_U)
        loss = domain_softmax_loss(model(step.batch, step.segments, table_UK), table_UK, step.targets, 0.2)
        loss.backward()
        assert all(p.grad.is_sparse == (name == "item.weight") for name, p in model.named_parameters())  # type: ignore[union-attr]
        optimizer.step()
        assert all(parameter.grad is None for parameter in model.parameters())

        adamw.zero_grad()
        table = reference.item.weight
        expected_loss = domain_softmax_loss(reference(step.batch, step.segments), table, step.targets, 0.2)
        expected_loss.backward()
        for group in adamw.param_groups:
            group["lr"] = RATE * schedule(number)
        adamw.step()
        torch.testing.assert_close(loss, expected_loss, rtol=1e-9, atol=0)
        for (name, actual), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
            assert torch.allclose(actual, expected, rtol=1e-9, atol=1e-9), name
