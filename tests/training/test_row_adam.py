"""Adam for rows that are touched in all or only in some steps, compared with torch's Adam and AdamW."""

from __future__ import annotations

from unittest.mock import patch

import hypothesis
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from tapestry.training import row_adam
from tapestry.training.row_adam import RowAdam
from tapestry.training.schedule import Schedule, constant, cosine, half_cosine, warmed_up

SEEDS = st.integers(0, 10_000)
RATE, DECAY = 0.01, 0.2


def gradients(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random gradients of many magnitudes, some far below Adam's ε."""
    size = 10 ** torch.empty(shape, dtype=torch.float64).uniform_(-11, 1, generator=generator)
    return size * torch.randn(shape, generator=generator, dtype=torch.float64)


def tables(seed: int) -> tuple[torch.Generator, nn.Parameter, nn.Parameter]:
    """A random table of seven rows for RowAdam, and a copy for an optimizer of torch."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    return generator, nn.Parameter(table), nn.Parameter(table.clone())


def step_rows(rows: RowAdam, table: nn.Parameter, touched: Tensor, gradient: Tensor) -> None:
    """A step in which the table's gradient has only the touched rows of `gradient`."""
    table.grad = torch.sparse_coo_tensor(touched[None], gradient[touched], table.shape, check_invariants=True)
    rows.step()
    assert table.grad is None


@hypothesis.settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_rows_touched_in_all_steps_equal_adam(seed: int) -> None:
    generator, table, parameter = tables(seed)
    reference = torch.optim.Adam([parameter], lr=RATE)
    rows = RowAdam(table, RATE)
    for _ in range(6):
        gradient = gradients((7, 3), generator)
        parameter.grad = gradient
        reference.step()
        step_rows(rows, table, torch.randperm(7, generator=generator), gradient)
        torch.testing.assert_close(table, parameter, rtol=1e-11, atol=1e-13)


@hypothesis.settings(max_examples=50, deadline=None)
@given(
    seed=SEEDS,
    steps=st.sampled_from([3, 40, 600]),
    caught_up=st.booleans(),
    schedule=st.sampled_from([constant, half_cosine(30), cosine(900), warmed_up(20, half_cosine(900))]),
    epsilon=st.sampled_from([1e-8, 1e-300]),
)
@example(seed=3749, steps=600, caught_up=False, schedule=constant, epsilon=1e-300)  # first a gradient of 4e-5
def test_rows_touched_in_some_steps_equal_adam_when_they_are_read(
    seed: int, steps: int, caught_up: bool, schedule: Schedule, epsilon: float
) -> None:
    """Adam moves rows without a gradient by their momentum; RowAdam applies these updates later.

    They differ where ε counts, as RowAdam's docstring says: with Adam's ε no gradient is below a hundredth, with an ε
    of next to nothing any gradient will do, and they are equal but for rounding. A row that another process has read
    gets a gradient here without `catch_up` before the step.
    """
    smallest, tolerance = (0.01, 1e-6) if epsilon == row_adam.EPSILON else (0.0, 1e-9)
    with patch.object(row_adam, "EPSILON", epsilon):
        compare_rows_with_adam(seed, steps, caught_up, schedule, smallest, tolerance)


def compare_rows_with_adam(
    seed: int, steps: int, caught_up: bool, schedule: Schedule, smallest: float, tolerance: float
) -> None:
    """Run both for so many steps, with gradients of at least `smallest`, and compare what is read and the result."""
    generator, table, parameter = tables(seed)
    reference = torch.optim.Adam([parameter], lr=RATE, eps=row_adam.EPSILON)
    rows = RowAdam(table, RATE, schedule)
    for step in range(steps):
        touched = torch.randperm(7, generator=generator)[: int(torch.randint(1, 4, (), generator=generator))]
        if steps == 600:  # row 0 waits longer than the updates that are summed
            touched = touched[touched > 0] if step > 0 else torch.arange(7)
        gradient = torch.zeros_like(table)
        drawn = torch.randn(len(touched), 3, generator=generator, dtype=torch.float64)
        gradient[touched] = drawn + smallest * drawn.sign()
        parameter.grad = gradient
        if caught_up:
            rows.catch_up(touched)
            torch.testing.assert_close(table[touched], parameter[touched], rtol=0, atol=tolerance)
        reference.param_groups[0]["lr"] = RATE * schedule(step + 1)
        reference.step()
        step_rows(rows, table, touched, gradient)
    rows.catch_up_all()
    torch.testing.assert_close(table, parameter, rtol=0, atol=tolerance)


@hypothesis.settings(max_examples=50, deadline=None)
@given(
    seed=SEEDS,
    epochs=st.lists(st.tuples(st.integers(1, 12), st.sampled_from([1.0, 0.5, 0.1])), min_size=2, max_size=6),
    schedule=st.sampled_from([constant, warmed_up(10, constant)]),
    caught_up=st.booleans(),
)
def test_rows_equal_adam_at_a_rate_that_changes_between_epochs(
    seed: int, epochs: list[tuple[int, float]], schedule: Schedule, caught_up: bool
) -> None:
    """The changes aren't known ahead, as with torch's ReduceLROnPlateau. A row may wait over several of them."""
    with patch.object(row_adam, "EPSILON", 1e-300):
        generator, table, parameter = tables(seed)
        reference = torch.optim.Adam([parameter], lr=RATE, eps=row_adam.EPSILON)
        rows = RowAdam(table, RATE, schedule)
        number, rate = 0, RATE
        for steps, decrease in epochs:
            rate *= decrease
            rows.set_rate_factor(rate / RATE)
            for _ in range(steps):
                touched = torch.randperm(7, generator=generator)[: int(torch.randint(1, 4, (), generator=generator))]
                gradient = torch.zeros_like(table)
                gradient[touched] = torch.randn(len(touched), 3, generator=generator, dtype=torch.float64)
                parameter.grad = gradient
                if caught_up:
                    rows.catch_up(touched)
                    torch.testing.assert_close(table[touched], parameter[touched], rtol=0, atol=1e-9)
                number += 1
                reference.param_groups[0]["lr"] = rate * schedule(number)
                reference.step()
                step_rows(rows, table, touched, gradient)
        rows.catch_up_all()
        torch.testing.assert_close(table, parameter, rtol=0, atol=1e-9)


@hypothesis.settings(max_examples=50, deadline=None)
@given(seed=SEEDS, steps=st.integers(1, 40), decay=st.sampled_from([0.1, 3.0, 50.0]), caught_up=st.booleans())
def test_weight_decay_shrinks_the_rows_of_a_step_and_no_others(
    seed: int, steps: int, decay: float, caught_up: bool
) -> None:
    """The reference loops over rows and steps: Adam for every row, and decay only for those that the step touches."""
    schedule = half_cosine(30)
    generator, table, parameter = tables(seed)
    naive = [{"x": x.clone(), "m": torch.zeros(3).double(), "v": torch.zeros(3).double()} for x in parameter.detach()]
    rows = RowAdam(table, RATE, schedule, weight_decay=decay)
    with patch.object(row_adam, "EPSILON", 1e-300):
        for step in range(1, steps + 1):
            touched = torch.randperm(7, generator=generator)[: int(torch.randint(1, 4, (), generator=generator))]
            gradient = torch.zeros_like(table)
            gradient[touched] = torch.randn(len(touched), 3, generator=generator, dtype=torch.float64)
            if step % 5 == 0:
                gradient[touched[0]] = 0.0  # read, but without a gradient: an item that is in no loss
            if caught_up:
                rows.catch_up(touched)
            step_rows(rows, table, touched, gradient)
            rate = RATE * schedule(step)
            for number, row in enumerate(naive):
                if number in touched.tolist():
                    row["x"] = row["x"] - rate * decay * row["x"]
                row["m"] = 0.9 * row["m"] + 0.1 * gradient[number]
                row["v"] = 0.999 * row["v"] + 0.001 * gradient[number] ** 2
                move = row["m"] / (1 - 0.9**step) / (row["v"] / (1 - 0.999**step)).sqrt()
                row["x"] = row["x"] - rate * move.nan_to_num(0.0)
        rows.catch_up_all()
    expected = torch.stack([row["x"] for row in naive])
    torch.testing.assert_close(table.detach(), expected, rtol=0, atol=1e-9)


@hypothesis.settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_weight_decay_of_rows_touched_in_all_steps_is_adamws(seed: int) -> None:
    generator, table, parameter = tables(seed)
    reference = torch.optim.AdamW([parameter], lr=RATE, weight_decay=DECAY)
    rows = RowAdam(table, RATE, weight_decay=DECAY)
    for _ in range(6):
        parameter.grad = gradients((7, 3), generator)
        gradient = parameter.grad.clone()
        reference.step()
        step_rows(rows, table, torch.randperm(7, generator=generator), gradient)
        torch.testing.assert_close(table, parameter, rtol=1e-11, atol=1e-13)


@hypothesis.settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_rows_that_are_never_touched_do_not_change_in_a_byte(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    table = nn.Parameter(torch.randn(9, 3, generator=generator))
    before = table.detach().clone()
    rows = RowAdam(table, RATE)
    touchable = torch.randperm(9, generator=generator)[:5]
    untouched = [row for row in range(9) if row not in touchable.tolist()]
    for count in (1, 3, 5):
        touched = touchable[:count]
        step_rows(rows, table, touched, torch.randn(9, 3, generator=generator))
    rows.catch_up_all()
    assert table[untouched].detach().numpy().tobytes() == before[untouched].numpy().tobytes()
    assert table[touchable].ne(before[touchable]).all()
