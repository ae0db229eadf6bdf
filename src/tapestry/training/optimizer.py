"""The optimizer of a model: AdamW for its network, and `RowAdam` for its item embedding.

A training step reads the rows of its items from `Optimizer.read`, and the backward pass leaves their gradient in
`model.item.weight.grad`: a sparse tensor (I, K) that holds only these rows. So every gradient belongs to a parameter of
the model, where the hooks of `torch.nn.parallel.DistributedDataParallel` (DDP) see it.

With several processes, each holds a shard of the item embedding and its moments, see `tapestry.parallel.item_rows`.

Suffixes: I items, K width, U touched items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from tapestry.model.network import Recommender
from tapestry.parallel.item_rows import RowExchange, Rows
from tapestry.parallel.processes import ALONE, Processes
from tapestry.training.row_adam import BETAS, EPSILON, RowAdam, RowState
from tapestry.training.schedule import Schedule, constant
from tapestry.training.settings import TrainSettings


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
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=learning_rate,
                weight_decay=decay,
                eps=EPSILON,
                maximize=False,
            )
