"""The optimizer against torch's own: Adam for rows, touched always or now and then, AdamW for the whole."""

from __future__ import annotations

import copy
import dataclasses

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import WHOLE_MODEL, random_sequences
from torch import Tensor, nn

from tapestry.model.loss import domain_softmax_loss
from tapestry.model.network import Recommender
from tapestry.parameters import Parameters
from tapestry.sequences.batches import pack
from tapestry.training.optimizer import Optimizer, RowAdam
from tapestry.training.settings import TrainSettings
from tapestry.training.steps import Step, prepare_step

SEEDS = st.integers(0, 10_000)
RATE, DECAY = 0.01, 0.2


@pytest.fixture
def settings(parameters: Parameters) -> TrainSettings:
    return dataclasses.replace(parameters.train, learning_rate=RATE, weight_decay=DECAY)


def gradients(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random, of many sizes: some far below Adam's ε."""
    size = 10 ** torch.empty(shape, dtype=torch.float64).uniform_(-11, 1, generator=generator)
    return size * torch.randn(shape, generator=generator, dtype=torch.float64)


def table_and_parameter(seed: int) -> tuple[torch.Generator, Tensor, nn.Parameter]:
    """A random table of seven rows for RowAdam, and its twin for an optimiser of torch."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    return generator, table, nn.Parameter(table.clone())


def step_rows(rows: RowAdam, touched: Tensor, gradient: Tensor) -> None:
    """A step that gives the touched rows their part of the whole table's gradient."""
    read = rows.rows(touched)
    read.value_UK.grad = gradient[touched]
    rows.step(read)


@hypothesis.settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_rows_that_are_all_touched_follow_adam(seed: int) -> None:
    generator, table, parameter = table_and_parameter(seed)
    reference = torch.optim.Adam([parameter], lr=RATE)
    rows = RowAdam(table, RATE)
    for _ in range(6):
        gradient = gradients((7, 3), generator)
        parameter.grad = gradient
        reference.step()
        step_rows(rows, torch.randperm(7, generator=generator), gradient)
        torch.testing.assert_close(table, parameter.detach(), rtol=1e-11, atol=1e-13)


@hypothesis.settings(max_examples=25, deadline=None)
@given(seed=SEEDS, steps=st.sampled_from([3, 40, 600]))
def test_rows_that_are_touched_now_and_then_follow_adam_whenever_read(seed: int, steps: int) -> None:
    """Adam moves rows without a gradient by their momentum; here those moves are made when a row is read."""
    generator, table, parameter = table_and_parameter(seed)
    reference = torch.optim.Adam([parameter], lr=RATE)
    rows = RowAdam(table, RATE)
    for step in range(steps):
        touched = torch.randperm(7, generator=generator)[: int(torch.randint(1, 4, (), generator=generator))]
        if steps == 600:  # row 0 waits longer than moves are summed for
            touched = touched[touched > 0] if step > 0 else torch.arange(7)
        gradient = torch.zeros_like(table)
        gradient[touched] = torch.randn(len(touched), 3, generator=generator, dtype=torch.float64)
        parameter.grad = gradient
        torch.testing.assert_close(rows.rows(touched).value_UK, parameter[touched], rtol=0, atol=1e-6)
        reference.step()
        step_rows(rows, touched, gradient)
    rows.settle()
    torch.testing.assert_close(table, parameter.detach(), rtol=0, atol=1e-6)


@hypothesis.settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_rows_that_no_step_touches_keep_their_bytes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(9, 3, generator=generator)
    before = table.clone()
    rows = RowAdam(table, RATE)
    touchable = torch.randperm(9, generator=generator)[:5]
    untouched = [row for row in range(9) if row not in touchable.tolist()]
    for count in (1, 3, 5):
        touched = touchable[:count]
        step_rows(rows, touched, torch.randn(9, 3, generator=generator))
    rows.settle()
    assert table[untouched].numpy().tobytes() == before[untouched].numpy().tobytes()
    assert table[touchable].ne(before[touchable]).all()


def is_linear_weight(name: str) -> bool:
    module, kind = name.split(".")[-2:]
    return kind == "weight" and module in {"project", "output", "gate"}


def random_model(items: int, domains: int) -> Recommender:
    """In float64, without dropout; all parameters are random, biases and norms too."""
    torch.manual_seed(0)
    model = Recommender(WHOLE_MODEL, items, domains).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


def test_the_first_step_is_the_one_found_by_hand(settings: TrainSettings) -> None:
    """Adam's first step is the learning rate times the gradient's sign; weight decay takes its share before."""
    model = random_model(items=6, domains=2)
    before = copy.deepcopy(model.state_dict())
    optimizer = Optimizer(model, settings)
    touched = torch.tensor([4, 1])
    rows = optimizer.rows(touched)
    assert rows.value_UK.is_leaf
    assert rows.value_UK.requires_grad
    assert torch.equal(rows.value_UK, before["item.weight"][touched])
    signs = {}
    for name, parameter in [*model.named_parameters(), ("rows", rows.value_UK)]:
        signs[name] = torch.randn_like(parameter).sign()
        if name != "item.weight":
            parameter.grad = signs[name] * (0.5 + torch.rand_like(parameter))
    optimizer.step(rows)
    for name, parameter in model.named_parameters():
        if name == "item.weight":
            expected = before[name].clone()
            expected[touched] -= RATE * signs["rows"]
        else:
            expected = before[name] * (1 - RATE * DECAY if is_linear_weight(name) else 1) - RATE * signs[name]
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-8)
        assert parameter.grad is None
    others = [0, 2, 3, 5]
    assert torch.equal(model.item.weight[others], before["item.weight"][others])


def steps_that_touch_all(model: Recommender, count: int) -> list[Step]:
    steps = []
    for seed in range(count):
        sequences = random_sequences(seed)
        batch = pack(sequences, sequences.offsets[:-1], sequences.offsets[1:] - 1)
        users = np.arange(len(sequences.user_id))
        steps.append(prepare_step(model, "tiled", users, batch, sequences.domains, None, np.random.default_rng(seed)))
    return steps


def test_training_steps_that_touch_all_items_follow_adamw(settings: TrainSettings) -> None:
    model = random_model(items=30, domains=3)
    reference = copy.deepcopy(model)
    named = list(reference.named_parameters())
    adamw = torch.optim.AdamW(
        [
            {"params": [p for name, p in named if is_linear_weight(name)], "weight_decay": DECAY},
            {"params": [p for name, p in named if not is_linear_weight(name)], "weight_decay": 0.0},
        ],
        lr=RATE,
    )
    optimizer = Optimizer(model, settings)
    for step in steps_that_touch_all(model, 3):
        assert step.touched_U.tolist() == list(range(30))
        rows = optimizer.rows(step.touched_U)
        loss = domain_softmax_loss(model(step.batch, step.segments, rows.value_UK), rows.value_UK, step.targets, 0.2)
        loss.backward()
        assert all((p.grad is None) == (name == "item.weight") for name, p in model.named_parameters())
        optimizer.step(rows)
        assert all(parameter.grad is None for parameter in model.parameters())

        adamw.zero_grad()
        table = reference.item.weight
        expected_loss = domain_softmax_loss(reference(step.batch, step.segments), table, step.targets, 0.2)
        expected_loss.backward()
        adamw.step()
        torch.testing.assert_close(loss, expected_loss, rtol=1e-9, atol=0)
        for (name, actual), expected in zip(model.named_parameters(), reference.parameters(), strict=True):
            assert torch.allclose(actual, expected, rtol=1e-9, atol=1e-9), name
