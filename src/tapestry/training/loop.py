"""Training with AdamW and early stopping on validation NDCG@10."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from tapestry.config import ModelConfig, TrainConfig
from tapestry.data.batches import training_batches
from tapestry.data.sequences import Sequences
from tapestry.errors import TapestryError
from tapestry.model.loss import domain_softmax_loss
from tapestry.model.network import Recommender
from tapestry.training.device import choose_device, make_deterministic

STOPPING_METRIC = "ndcg_10"


@dataclass(frozen=True)
class Epoch:
    """One epoch: from 1; mean loss a token; TAPE's mean |r_i| (0 without TAPE); validation figures;
    seconds of training, validation not included.
    """

    epoch: int
    loss: float
    tape_norm: float
    tokens: int
    validation: dict[str, float]
    seconds: float

    def figures(self) -> dict[str, float]:
        """What is the same on every run: for tracked files and curves."""
        return {"epoch": self.epoch, "loss": self.loss, "tape_norm": self.tape_norm, **self.validation}

    def timings(self) -> dict[str, float]:
        """What varies from run to run."""
        return {"seconds": self.seconds, "tokens_per_second": self.tokens / self.seconds}

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {self.validation[name]:.4f}" for name in ("hr_10", "hr_100", "ndcg_10", "mrr"))
        return f"epoch {self.epoch}: loss {self.loss:.4f}, validation {shown} ({self.seconds:.1f} s training)"


@dataclass(frozen=True)
class Training:
    """The model with the best epoch's weights, on the CPU, and what led there."""

    model: Recommender
    best: Epoch
    epochs: tuple[Epoch, ...]

    def summary(self) -> dict[str, Any]:
        """The contents of metrics/train.json."""
        return {
            "best": self.best.figures(),
            "final": self.epochs[-1].figures(),
            "epochs": len(self.epochs),
            "tokens": sum(epoch.tokens for epoch in self.epochs),
        }


def train(
    sequences: Sequences,
    model_config: ModelConfig,
    config: TrainConfig,
    validate: Callable[[Recommender], dict[str, float]],
    on_epoch: Callable[[Epoch], None],
) -> Training:
    """Train until `epochs`, or `patience` epochs without a better validation NDCG@10.

    Args:
        validate: a model's figures on the validation targets; must hold "ndcg_10".
        on_epoch: called after each epoch, to show or log it.

    Raises:
        TapestryError: no CUDA device where one is asked for, nothing to train on, or a loss that is no
            number.
    """
    device = choose_device(config.device)
    make_deterministic(config.seed, config.threads)
    model = Recommender(model_config, sequences.items, len(sequences.domains)).to(device)
    optimizer = _optimizer(model, config)
    shuffle = np.random.default_rng(config.seed)
    negatives = torch.Generator().manual_seed(config.seed)
    epochs: list[Epoch] = []
    best_weights: dict[str, Tensor] = {}
    best: Epoch | None = None
    for number in range(1, config.epochs + 1):
        model.train()
        epoch = _run_epoch(number, model, optimizer, sequences, config, shuffle, negatives, device)
        epoch.validation.update(validate(model))
        epochs.append(epoch)
        on_epoch(epoch)
        if best is None or epoch.validation[STOPPING_METRIC] > best.validation[STOPPING_METRIC]:
            best = epoch
            best_weights = copy.deepcopy(model.state_dict())
        elif epoch.epoch - best.epoch >= config.patience:
            break
    assert best is not None
    model.load_state_dict(best_weights)
    return Training(model.cpu().eval(), best, tuple(epochs))


def _run_epoch(
    number: int,
    model: Recommender,
    optimizer: torch.optim.Optimizer,
    sequences: Sequences,
    config: TrainConfig,
    shuffle: np.random.Generator,
    negatives: torch.Generator,
    device: torch.device,
) -> Epoch:
    batches = list(training_batches(sequences, model.config.window, config.batch_users, shuffle))
    if not batches:
        raise TapestryError("train: no user has two training interactions; there is nothing to learn from")
    loss_sum = tape_sum = 0.0
    tokens = 0
    started = time.perf_counter()
    with tqdm(batches, desc=f"epoch {number}/{config.epochs}", unit="step", leave=False, disable=None) as bar:
        for step, cpu_batch in enumerate(bar, start=1):
            batch = cpu_batch.to(device)
            loss = domain_softmax_loss(
                model,
                model(batch),
                batch.target_N,
                batch.target_domain_N,
                sequences.domains,
                config.negatives,
                config.temperature,
                negatives,
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            value = loss.item()
            if not math.isfinite(value):
                raise TapestryError(
                    f"train: the loss is {value} at epoch {number}, step {step}; lower train.learning_rate "
                    "or raise train.temperature"
                )
            loss_sum += value * len(batch.item_N)
            tokens += len(batch.item_N)
            if model.tape is not None:
                with torch.no_grad():
                    tape_sum += float(model.transition(batch).norm(dim=-1).sum())
            bar.set_postfix(loss=f"{loss_sum / tokens:.4f}")
    return Epoch(number, loss_sum / tokens, tape_sum / tokens, tokens, {}, time.perf_counter() - started)


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; weight decay on the matrices of linear layers alone."""
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    return torch.optim.AdamW(
        [
            {
                "params": [p for p in model.parameters() if id(p) in decayed],
                "weight_decay": config.weight_decay,
            },
            {"params": [p for p in model.parameters() if id(p) not in decayed], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
    )
