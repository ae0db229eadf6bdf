"""Adam for an item embedding that reads and writes only the rows that a step touches.

Suffixes: I items, K width, U touched items.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tapestry.model.device import no_row_written_twice
from tapestry.training.schedule import Schedule, constant

BETAS = (0.9, 0.999)
EPSILON = 1e-8
_DECAY = BETAS[0] / BETAS[1] ** 0.5  # factor between an update and the next one if the gradient is 0
_NEGLIGIBLE = 400  # steps without a gradient after which an update is below float64's rounding: 0.9^400 ≈ 5e-19
_TABLE_GROWTH = 1024  # steps by which the table of future updates grows
_ROWS = 1 << 16  # rows that `catch_up_all` processes at a time


@dataclass(eq=False)
class RowState:
    """The state of `RowAdam`. mean_IK, square_IK: Adam's first and second moments of each row, as of its last step.

    step: number of steps so far. rate_factor: see `RowAdam.set_rate_factor`. last_step_I: the step up to which each row
    is up to date, 0 if never read.
    """

    step: int
    rate_factor: float
    last_step_I: Tensor
    mean_IK: Tensor
    square_IK: Tensor


class RowAdam:
    """Adam (arXiv 1412.6980) for a table, at the cost of the touched rows instead of all rows.

    Adam also moves a row in steps without a gradient, by its momentum. RowAdam postpones these updates until the row
    is next read, and then applies them at once: without gradients the moments only decay, so the sum of n updates is
    the first one times a factor that depends on n and the step. One difference to Adam: in the postponed updates, the
    ε beside the root of the second moment decays with the root. It matters only for gradients as small as ε.

    Weight decay is decoupled (AdamW, arXiv 1711.05101) and lazy: a step multiplies each row that it touches by
    1 − learning rate · decay, once, before its update. Rows that the step doesn't touch keep their length, so the decay
    of a row grows with the number of steps that read it, where AdamW's is that of all steps. It is no AdamW for rows
    that are rarely touched. For rows touched in every step, it is.

    Args:
        table: (I, K); its sparse gradient has the rows that a step touches.
        learning_rate: at the factor 1.
        schedule: the factor of the learning rate at each step.
        weight_decay: of a touched row, in units of the learning rate.
    """

    def __init__(
        self, table: Tensor, learning_rate: float, schedule: Schedule = constant, weight_decay: float = 0.0
    ) -> None:
        self._table = table
        self._learning_rate, self._schedule, self._weight_decay = learning_rate, schedule, weight_decay
        self.state = RowState(
            step=0,
            rate_factor=1.0,
            last_step_I=torch.zeros(len(table), dtype=torch.int64, device=table.device),
            mean_IK=torch.zeros_like(table, requires_grad=False),
            square_IK=torch.zeros_like(table, requires_grad=False),
        )
        self._future = torch.empty(0, dtype=torch.float64, device=table.device)  # see `_future_updates`

    def next_rate(self) -> float:
        """Return the learning rate of the next step."""
        return self._learning_rate * self.state.rate_factor * self._schedule(self.state.step + 1)

    def set_rate_factor(self, factor: float) -> None:
        """Multiply the learning rate of later steps by a factor, instead of the factor before, which is 1 at first.

        Unlike the schedule, it needn't be known ahead (`train.schedule: plateau`). All rows are first brought up to
        date, so that the postponed updates of a row are all of one factor, and the table of future updates holds.
        """
        if factor != self.state.rate_factor:
            self.catch_up_all()
            self.state.rate_factor = factor

    @torch.no_grad()
    def catch_up(self, touched_U: Tensor) -> None:
        """Apply the postponed updates of the rows `touched_U`, each once."""
        state = self.state
        last_U = state.last_step_I.index_select(0, touched_U)
        missed_U = state.step - last_U
        if not missed_U.any():
            return
        value_UK, mean_UK, square_UK = self._select(touched_U)
        # In units of the last update: all updates after it, less those that are still to come.
        missed_updates_U = self._future_updates(last_U) - _DECAY ** missed_U.double() * self._future_updates(
            missed_U + last_U
        )
        epsilon_U = EPSILON * _root(1 - BETAS[1] ** last_U.clamp(min=1).double())
        scale_UK = _root(square_UK).add_(epsilon_U[:, None]).div_(missed_updates_U[:, None])
        value_UK.addcdiv_(mean_UK, scale_UK, value=-self._learning_rate * state.rate_factor)
        for moment_UK, beta in zip((mean_UK, square_UK), BETAS, strict=True):
            moment_UK.mul_((beta ** missed_U.double())[:, None])
        self._write(touched_U, value_UK, mean_UK, square_UK)

    @torch.no_grad()
    def step(self) -> None:
        """Update the rows of the table's sparse gradient, and clear the gradient."""
        assert self._table.grad is not None
        gradient = self._table.grad.coalesce()
        self._table.grad = None
        touched_U, grad_UK = gradient.indices()[0], gradient.values()
        self.catch_up(touched_U)  # nothing to do for rows that this step has read
        learning_rate = self.next_rate()
        self.state.step += 1
        step = self.state.step
        value_UK, mean_UK, square_UK = self._select(touched_U)
        value_UK.mul_(1 - learning_rate * self._weight_decay)  # by exactly 1 without weight decay
        mean_UK.lerp_(grad_UK, 1 - BETAS[0])
        square_UK.lerp_(grad_UK.square_(), 1 - BETAS[1])
        rate = learning_rate / (1 - BETAS[0] ** step)
        scale_UK = _root(square_UK).div_((1 - BETAS[1] ** step) ** 0.5).add_(EPSILON)
        self._write(touched_U, value_UK.addcdiv_(mean_UK, scale_UK, value=-rate), mean_UK, square_UK)

    def catch_up_all(self) -> None:
        """Apply the postponed updates of all rows. A row that was never touched has none."""
        last_I = self.state.last_step_I
        late_I = (last_I > 0) & (last_I < self.state.step)
        for late_U in late_I.nonzero()[:, 0].split(_ROWS):
            self.catch_up(late_U)

    def _select(self, touched_U: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Copy rows of the table and of both moments, (U, K) each."""
        value_UK, mean_UK, square_UK = (
            table_IK.index_select(0, touched_U) for table_IK in (self._table, self.state.mean_IK, self.state.square_IK)
        )
        return value_UK, mean_UK, square_UK

    def _write(self, touched_U: Tensor, value_UK: Tensor, mean_UK: Tensor, square_UK: Tensor) -> None:
        """Write rows back; they are then up to date."""
        with no_row_written_twice():
            self._table.index_copy_(0, touched_U, value_UK)
            self.state.mean_IK.index_copy_(0, touched_U, mean_UK)
            self.state.square_IK.index_copy_(0, touched_U, square_UK)
        self.state.last_step_I.index_fill_(0, touched_U, self.state.step)

    def _future_updates(self, step_U: Tensor) -> Tensor:
        """Return Σ_{k ≥ 1} of the updates at steps t = step + k if no gradient comes after `step`, (U,).

        The unit is m / √v, the moments at `step`, at the full learning rate times `rate_factor`. Update t is
        β₁ᵏ m / (1 - β₁ᵗ) by √(β₂ᵏ v / (1 - β₂ᵗ)), times the schedule's factor, so it is
        (β₁ / √β₂)ᵏ √(1 - β₂ᵗ) / (1 - β₁ᵗ) in this unit, times the factor.
        """
        while self.state.step >= len(self._future):
            k = torch.arange(1, _NEGLIGIBLE, dtype=torch.float64)
            start, end = len(self._future), len(self._future) + _TABLE_GROWTH
            t = torch.arange(start, end)[:, None] + k
            factors = [self._schedule(step) for step in range(start + 1, end + len(k))]
            factor = torch.tensor(factors, dtype=torch.float64).unfold(0, len(k), 1)  # of each t
            updates = _DECAY**k * _root(1 - BETAS[1] ** t) / (1 - BETAS[0] ** t) * factor
            self._future = torch.cat([self._future, updates.sum(1).to(self._future.device)])
        return self._future.index_select(0, step_U)


def _root(x: Tensor) -> Tensor:
    """Return √x, computed with operations that round the same on every CPU.

    `torch.sqrt` on the CPU is an approximation of MKL's, which rounds differently on Intel's and AMD's processors.
    """
    return x.rsqrt().reciprocal_()
