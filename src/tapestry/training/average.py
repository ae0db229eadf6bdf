"""The mean of a model's weights after each of the last epochs (stochastic weight averaging, arXiv 1803.05407).

Weights of one epoch wander around where the loss is low; their mean is nearer to the middle, and ranks better.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch

from tapestry.model.network import Recommender
from tapestry.training.checkpoints import weights_state


class EpochAverage:
    """Averages the weights after each epoch that counts.

    Example: of 12 epochs with the share .67 the last 8 count. The weights after epochs 1 to 5 are as they are, those
    after epoch 6 are the mean of epochs 5 and 6, and those after epoch 12 the mean of epochs 5 to 12.

    Args:
        epochs: how many there are at most.
        share: of them, rounded, that count: the last ones. If it is one epoch or none, there is nothing to average.
    """

    def __init__(self, epochs: int, share: float) -> None:
        counted = int(share * epochs + 0.5)
        self._first = epochs - counted + 1 if counted > 1 else epochs + 1
        self._epochs = 0
        self._mean: Recommender | None = None

    @torch.no_grad()
    def add(self, epoch: int, model: Recommender) -> None:
        """Add the weights after an epoch, if it counts. Each epoch is added once, in order."""
        if epoch < self._first:
            return
        self._epochs += 1
        if self._mean is None:
            self._mean = copy.deepcopy(model)
        weights = model.state_dict()
        for name, mean in self._mean.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(weights[name], 1 / self._epochs)
            else:
                mean.copy_(weights[name])

    def of(self, model: Recommender) -> Recommender:
        """Return the model with the averaged weights; `model` itself while no epoch counts."""
        return model if self._mean is None else self._mean

    def state(self) -> dict[str, Any]:
        """Return what `load_state` takes, in the form of a checkpoint's tree."""
        weights = {} if self._mean is None else self._mean.state_dict()
        return {"epochs": self._epochs, "weights": weights_state(weights)}

    def load_state(self, state: Mapping[str, Any], model: Recommender) -> None:
        """Set the state that `state` has returned; `model` is any with the same settings."""
        self._epochs = state["epochs"]
        if state["weights"]:
            self._mean = copy.deepcopy(model)
            self._mean.load_state_dict(state["weights"])
