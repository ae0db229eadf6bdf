"""AdamW for the network, and Adam for the item embedding that costs the rows touched, not the table.

Suffixes: I items, K width, U touched items.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tapestry.config import TrainConfig
from tapestry.model.network import Recommender

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


class Optimizer:
    """One `step` for a model's network, by AdamW, and for the rows of its item embedding that a batch touched.

    Weight decay is on the matrices of linear layers alone.
    """

    def __init__(self, model: Recommender, config: TrainConfig) -> None:
        decayed = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
        others = [parameter for name, parameter in model.named_parameters() if name != "item.weight"]
        self._network = torch.optim.AdamW(
            [
                {"params": [p for p in others if id(p) in decayed], "weight_decay": config.weight_decay},
                {"params": [p for p in others if id(p) not in decayed], "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=_BETAS,
            eps=_EPSILON,
            fused=True,
        )
        self._items = RowAdam(model.item.weight.detach(), config.learning_rate)

    def rows(self, touched_U: Tensor) -> Tensor:
        """The embeddings of the touched items, a leaf of the graph. (U, K)"""
        return self._items.table.index_select(0, touched_U).requires_grad_()

    def step(self, touched_U: Tensor, rows_UK: Tensor) -> None:
        """Update from the gradients that a backward pass left, and clear them."""
        assert rows_UK.grad is not None
        self._network.step()
        self._network.zero_grad()
        self._items.step(touched_U, rows_UK.detach(), rows_UK.grad)


class RowAdam:
    """Adam (arXiv 1412.6980) over a table, of which a step reads and writes only some rows.

    A row's moments decay in the steps that touch it; the bias correction counts all steps, as in
    `torch.optim.SparseAdam`. Where every step touches every row it is Adam.
    """

    def __init__(self, table_IK: Tensor, learning_rate: float) -> None:
        self.table = table_IK
        self._learning_rate = learning_rate
        self._mean, self._square = torch.zeros_like(table_IK), torch.zeros_like(table_IK)
        self._steps = 0

    def step(self, touched_U: Tensor, rows_UK: Tensor, grad_UK: Tensor) -> None:
        """Update the rows at `touched_U`, each of which is there once; `rows_UK` are those rows."""
        self._steps += 1
        mean_UK = self._mean.index_select(0, touched_U).lerp_(grad_UK, 1 - _BETAS[0])
        square_UK = self._square.index_select(0, touched_U).lerp_(grad_UK.square(), 1 - _BETAS[1])
        self._mean.index_copy_(0, touched_U, mean_UK)
        self._square.index_copy_(0, touched_U, square_UK)
        rate = self._learning_rate / (1 - _BETAS[0] ** self._steps)
        scale_UK = square_UK.sqrt_().div_((1 - _BETAS[1] ** self._steps) ** 0.5).add_(_EPSILON)
        self.table.index_copy_(0, touched_U, torch.addcdiv(rows_UK, mean_UK, scale_UK, value=-rate))
