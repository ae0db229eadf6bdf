"""AdamW for the network, and Adam for the item embedding that reads and writes only the rows that a step touches.

A training step reads the rows of its items from `Optimizer.read`, and the backward pass leaves their gradient in
`model.item.weight.grad`: a sparse tensor (I, K) that holds only these rows. So every gradient belongs to a parameter of
the model, where the hooks of `torch.nn.parallel.DistributedDataParallel` (DDP) see it.

With several processes, each holds a shard of the item embedding and its moments, see `tapestry.parallel.item_rows`.

Suffixes: I items, K width, U touched items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from tapestry.model.device import no_row_written_twice
from tapestry.model.network import Recommender
from tapestry.parallel.item_rows import RowExchange, Rows
from tapestry.parallel.processes import ALONE, Processes
from tapestry.training.schedule import Schedule, constant
from tapestry.training.settings import TrainSettings

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8
_DECAY = _BETAS[0] / _BETAS[1] ** 0.5  # factor between an update and the next one if the gradient is 0
_NEGLIGIBLE = 400  # steps without a gradient after which an update is below float64's rounding: 0.9^400 ≈ 5e-19
_TABLE_GROWTH = 1024  # steps by which the table of future updates grows
_ROWS = 1 << 16  # rows that `catch_up_all` processes at a time


class Optimizer:
    """AdamW for a model's network and `RowAdam` for its item embedding, updated together by `step`.

    Weight decay applies to the weights of linear layers, and another one to the item embedding (see `RowAdam`). The
    state is that of the two optimizers.

    Args:
        schedule: the factor of `settings.learning_rate` at each step.
        processes: those that train the model together.
    """

    def __init__(
        self,
        model: Recommender,
        settings: TrainSettings,
        schedule: Schedule = constant,
        processes: Processes = ALONE,
    ) -> None:
        decayed = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
        others = [parameter for name, parameter in model.named_parameters() if name != "item.weight"]
        self._network = NetworkAdam(others, [settings.weight_decay if id(p) in decayed else 0.0 for p in others])
        self._item = model.item
        self._rows = RowAdam(
            model.item.weight, settings.learning_rate, schedule, weight_decay=settings.embedding_weight_decay
        )
        self._read_UK = torch.empty(0)
        self._exchange = None if processes.count == 1 else RowExchange(model.item.weight, processes)

    def read(self, touched_U: Tensor) -> Tensor:
        """Return the up-to-date embeddings of the touched items, (U, K), for a forward pass.

        Args:
            touched_U: item numbers, each once.
        """
        if self._exchange is not None:
            self._read_UK = self._exchange.read(touched_U, self._rows.catch_up).requires_grad_()
            return self._read_UK
        self._rows.catch_up(touched_U)
        embedding_UK: Tensor = self._item(touched_U)
        return embedding_UK

    def step(self) -> None:
        """Update all parameters from the gradients of a backward pass, and clear the gradients."""
        if self._exchange is not None:
            assert self._read_UK.grad is not None
            self._exchange.collect_gradient(self._read_UK.grad)
        self._network.step(self._rows.next_rate())
        self._rows.step()

    def set_rate_factor(self, factor: float) -> None:
        """Multiply the learning rate of later steps by a factor, instead of the factor before."""
        self._rows.set_rate_factor(factor)

    @property
    def steps(self) -> int:
        """The number of steps so far."""
        return self._rows.state.step

    def state(self) -> dict[str, Any]:
        """Return the moments and step numbers of both optimizers: dictionaries of tensors, not copied, and numbers."""
        adamw = self._network.state
        rows = {name: Rows(x) if isinstance(x, Tensor) else x for name, x in vars(self._rows.state).items()}
        return {"network": {str(number): moments for number, moments in adamw.items()}, "rows": rows}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Set the state that `state` has returned."""
        device = self._item.weight.device
        self._network.state = {
            int(number): {name: x.to(device) for name, x in moments.items()}
            for number, moments in state["network"].items()
        }
        rows: dict[str, Any] = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in state["rows"].items()}
        self._rows.state = RowState(**rows)

    def catch_up_all(self) -> None:
        """Bring the whole item embedding up to date. Call it before the embedding is read without `read`."""
        self._rows.catch_up_all()


class NetworkAdam:
    """AdamW (arXiv 1711.05101) for the network's weights, by the fused kernel of torch.

    `torch.optim.AdamW` would import torch's compiler, which takes as long as to import torch, and isn't used here.

    Args:
        parameters: the weights.
        decays: the weight decay of each.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decays: Sequence[float]) -> None:
        self._parameters, self._decays = parameters, decays
        self.state: dict[int, dict[str, Tensor]] = {}
        """Step number and moments of each parameter, by its index, once it has had a gradient."""

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update the parameters that have a gradient, and clear the gradients."""
        for decay in dict.fromkeys(self._decays):
            parameters: list[Tensor] = []
            gradients: list[Tensor] = []
            moments: list[dict[str, Tensor]] = []
            for index, parameter in enumerate(self._parameters):
                if self._decays[index] == decay and parameter.grad is not None:
                    if index not in self.state:
                        self.state[index] = {
                            "step": torch.zeros((), device=parameter.device),
                            "exp_avg": torch.zeros_like(parameter),
                            "exp_avg_sq": torch.zeros_like(parameter),
                        }
                    parameters.append(parameter)
                    gradients.append(parameter.grad)
                    moments.append(self.state[index])
                    parameter.grad = None
            if not parameters:
                continue
            adamw(
                parameters,
                gradients,
                exp_avgs=[of["exp_avg"] for of in moments],
                exp_avg_sqs=[of["exp_avg_sq"] for of in moments],
                max_exp_avg_sqs=[],
                state_steps=[of["step"] for of in moments],
                fused=True,
                amsgrad=False,
                beta1=_BETAS[0],
                beta2=_BETAS[1],
                lr=learning_rate,
                weight_decay=decay,
                eps=_EPSILON,
                maximize=False,
            )


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
        epsilon_U = _EPSILON * _root(1 - _BETAS[1] ** last_U.clamp(min=1).double())
        scale_UK = _root(square_UK).add_(epsilon_U[:, None]).div_(missed_updates_U[:, None])
        value_UK.addcdiv_(mean_UK, scale_UK, value=-self._learning_rate * state.rate_factor)
        for moment_UK, beta in zip((mean_UK, square_UK), _BETAS, strict=True):
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
        mean_UK.lerp_(grad_UK, 1 - _BETAS[0])
        square_UK.lerp_(grad_UK.square_(), 1 - _BETAS[1])
        rate = learning_rate / (1 - _BETAS[0] ** step)
        scale_UK = _root(square_UK).div_((1 - _BETAS[1] ** step) ** 0.5).add_(_EPSILON)
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
            updates = _DECAY**k * _root(1 - _BETAS[1] ** t) / (1 - _BETAS[0] ** t) * factor
            self._future = torch.cat([self._future, updates.sum(1).to(self._future.device)])
        return self._future.index_select(0, step_U)


def _root(x: Tensor) -> Tensor:
    """Return √x, computed with operations that round the same on every CPU.

    `torch.sqrt` on the CPU is an approximation of MKL's, which rounds differently on Intel's and AMD's processors.
    """
    return x.rsqrt().reciprocal_()
