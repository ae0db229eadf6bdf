"""AdamW for the network, and Adam for the item embedding that costs the rows touched, not the table.

Suffixes: I items, K width, U touched items.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tapestry.model.network import Recommender
from tapestry.training.settings import TrainSettings

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8
_DECAY = _BETAS[0] / _BETAS[1] ** 0.5  # of an update from one step to the next in which there is no gradient
_HORIZON = 400  # steps after which an update has decayed below float64's rounding
_STEPS = 1024  # steps by which what is computed ahead grows
_SETTLED = 1 << 16  # rows settled at a time


class Optimizer:
    """One `step` for a model's network, by AdamW, and for the rows of its item embedding that a batch touched.

    Weight decay is on the matrices of linear layers alone.
    """

    def __init__(self, model: Recommender, settings: TrainSettings) -> None:
        decayed = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
        others = [parameter for name, parameter in model.named_parameters() if name != "item.weight"]
        self._network = torch.optim.AdamW(
            [
                {"params": [p for p in others if id(p) in decayed], "weight_decay": settings.weight_decay},
                {"params": [p for p in others if id(p) not in decayed], "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            betas=_BETAS,
            eps=_EPSILON,
            fused=True,
        )
        self._items = RowAdam(model.item.weight.detach(), settings.learning_rate)

    def rows(self, touched_U: Tensor) -> Rows:
        """The embeddings of the touched items, for a forward pass to read."""
        return self._items.rows(touched_U)

    def step(self, rows: Rows) -> None:
        """Update from the gradients that a backward pass left, and clear them."""
        self._network.step()
        self._network.zero_grad()
        self._items.step(rows)

    def settle(self) -> None:
        """Bring every item's embedding up to date: to be called before the table is read as a whole."""
        self._items.settle()


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows `touched_U` of a table, brought up to date. `value_UK`, a leaf of the graph, takes the gradient."""

    touched_U: Tensor
    value_UK: Tensor
    mean_UK: Tensor
    square_UK: Tensor


class RowAdam:
    """Adam (arXiv 1412.6980) over a table, of which a step reads and writes only some rows.

    Adam moves a row by its momentum in steps that give it no gradient, too. Such moves wait until the row is next
    read, and are then made at once: without gradients the moments only decay, so that the sum of n moves is their
    first times a factor of n and of the step. Only ε, next to the root of the second moment, doesn't decay here as
    it does in Adam: a difference for gradients as small as ε.
    """

    def __init__(self, table_IK: Tensor, learning_rate: float) -> None:
        self.table = table_IK
        self._learning_rate = learning_rate
        self._mean, self._square = torch.zeros_like(table_IK), torch.zeros_like(table_IK)
        self._steps = 0
        self._step_I = torch.zeros(len(table_IK), dtype=torch.int64, device=table_IK.device)
        self._unspent = torch.empty(0, dtype=torch.float64, device=table_IK.device)

    def rows(self, touched_U: Tensor) -> Rows:
        """The rows at `touched_U`, each of which is there once."""
        value_UK, mean_UK, square_UK = (t.index_select(0, touched_U) for t in (self.table, self._mean, self._square))
        before_U = self._step_I.index_select(0, touched_U)
        missed_U = self._steps - before_U
        if missed_U.any():
            spent_U = self._remaining(before_U) - _DECAY ** missed_U.double() * self._remaining(missed_U + before_U)
            epsilon_U = _EPSILON * _root(1 - _BETAS[1] ** before_U.clamp(min=1).double())
            scale_UK = _root(square_UK).add_(epsilon_U[:, None]).div_(spent_U[:, None])
            value_UK.addcdiv_(mean_UK, scale_UK, value=-self._learning_rate)
            for moment_UK, beta in zip((mean_UK, square_UK), _BETAS, strict=True):
                moment_UK.mul_((beta ** missed_U.double())[:, None])
        return Rows(touched_U, value_UK.requires_grad_(), mean_UK, square_UK)

    def step(self, rows: Rows) -> None:
        """Update rows from their gradient. They must have been read since the last step."""
        grad_UK = rows.value_UK.grad
        assert grad_UK is not None
        self._steps += 1
        mean_UK = rows.mean_UK.lerp_(grad_UK, 1 - _BETAS[0])
        square_UK = rows.square_UK.lerp_(grad_UK.square(), 1 - _BETAS[1])
        rate = self._learning_rate / (1 - _BETAS[0] ** self._steps)
        scale_UK = _root(square_UK).div_((1 - _BETAS[1] ** self._steps) ** 0.5).add_(_EPSILON)
        self._write(rows, torch.addcdiv(rows.value_UK.detach(), mean_UK, scale_UK, value=-rate))

    def settle(self) -> None:
        """Bring every row up to date. Those that no step has touched yet have nothing to make up."""
        behind = (self._step_I > 0) & (self._step_I < self._steps)
        for touched_U in behind.nonzero()[:, 0].split(_SETTLED):
            rows = self.rows(touched_U)
            self._write(rows, rows.value_UK.detach())

    def _write(self, rows: Rows, value_UK: Tensor) -> None:
        pairs = ((self.table, value_UK), (self._mean, rows.mean_UK), (self._square, rows.square_UK))
        for table_IK, new_UK in pairs:
            table_IK.index_copy_(0, rows.touched_U, new_UK)
        self._step_I.index_fill_(0, rows.touched_U, self._steps)

    def _remaining(self, step_U: Tensor) -> Tensor:
        """Σ_{k ≥ 1} of what moves step + k would be without a gradient ever after, in units of m / √v at the step.

        Move t is β₁ᵏ m / (1 - β₁ᵗ) by √(β₂ᵏ v / (1 - β₂ᵗ)), so k decays it by (β₁ / √β₂)ᵏ.
        """
        while self._steps >= len(self._unspent):
            k = torch.arange(1, _HORIZON, dtype=torch.float64)
            t = torch.arange(len(self._unspent), len(self._unspent) + _STEPS)[:, None] + k
            moves = _DECAY**k * _root(1 - _BETAS[1] ** t) / (1 - _BETAS[0] ** t)
            self._unspent = torch.cat([self._unspent, moves.sum(1).to(self._unspent.device)])
        return self._unspent.index_select(0, step_U)


def _root(x: Tensor) -> Tensor:
    """√x by operations that IEEE 754 fixes: on the CPU `torch.sqrt` is MKL's, an approximation that Intel's and AMD's
    processors round differently.
    """
    return x.rsqrt().reciprocal_()
