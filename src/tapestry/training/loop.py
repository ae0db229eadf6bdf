"""Training with AdamW and early stopping on validation NDCG@10."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tapestry.core.errors import TapestryError
from tapestry.model.device import choose_device, make_deterministic
from tapestry.model.loss import domain_softmax_loss
from tapestry.model.network import Recommender
from tapestry.model.settings import ModelSettings
from tapestry.model.tensors import not_finite, pinned, to_device
from tapestry.sequences.batches import trained_users, training_batches
from tapestry.sequences.reader import Sequences
from tapestry.training.optimizer import Optimizer
from tapestry.training.settings import TrainSettings
from tapestry.training.steps import Step, prefetched, prepare_step

STOPPING_METRIC = "ndcg_10"
_USERS_NAMED = 10


@dataclass(frozen=True)
class Pass:
    """One pass over the training tokens: mean loss a token; TAPE's mean |r_i| (0 without TAPE); tokens; the
    positions that attention computed for them, padding included; seconds.
    """

    loss: float
    tape_norm: float
    tokens: int
    computed: int
    seconds: float


@dataclass(frozen=True)
class Epoch:
    """One epoch, from 1: its pass over the training tokens, and the validation figures after it."""

    epoch: int
    training: Pass
    validation: dict[str, float]

    def figures(self) -> dict[str, float]:
        """What is the same on every run: for tracked files and curves."""
        return {
            "epoch": self.epoch,
            "loss": self.training.loss,
            "tape_norm": self.training.tape_norm,
            **self.validation,
        }

    def timings(self) -> dict[str, float]:
        """What varies from run to run or kernel to kernel."""
        return {
            "seconds": self.training.seconds,
            "tokens_per_second": self.training.tokens / self.training.seconds,
            "useful_tokens": self.training.tokens / self.training.computed,
        }

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {self.validation[name]:.4f}" for name in ("hr_10", "hr_100", "ndcg_10", "mrr"))
        timings = self.timings()
        return (
            f"epoch {self.epoch}: loss {self.training.loss:.4f}, validation {shown}; {self.training.seconds:.1f} s of "
            f"training, {timings['tokens_per_second']:,.0f} tokens/s, {timings['useful_tokens']:.0%} useful"
        )


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
            "tokens": sum(epoch.training.tokens for epoch in self.epochs),
        }

    def tokens_per_second(self) -> float:
        """Of all passes over the training tokens, validation left out."""
        passes = [epoch.training for epoch in self.epochs]
        return sum(part.tokens for part in passes) / sum(part.seconds for part in passes)

    def record(self) -> dict[str, Any]:
        """What a saved model keeps of its training: the summary, and the figures of every epoch."""
        return {"summary": self.summary(), "curve": [epoch.figures() for epoch in self.epochs]}


class DivergedError(TapestryError):
    """The loss or weights became NaN or infinite. `model` has the best epoch's weights; None in the first epoch."""

    def __init__(self, message: str, model: Recommender | None) -> None:
        super().__init__(message)
        self.model = model


def train(
    sequences: Sequences,
    model_settings: ModelSettings,
    settings: TrainSettings,
    validate: Callable[[Recommender], dict[str, float]],
    on_epoch: Callable[[Epoch], None],
) -> Training:
    """Train until `epochs`, or `patience` epochs without a better validation NDCG@10.

    Args:
        validate: a model's figures on the validation targets; must hold "ndcg_10".
        on_epoch: called after each epoch, to show or log it.

    Raises:
        TapestryError: no CUDA device where one is asked for, a kernel that can't run there, or nothing to
            train on.
        DivergedError: the loss, or a weight at the end of an epoch, is no number or infinite.
    """
    device = choose_device(settings.device)
    make_deterministic(settings.seed, settings.threads)
    model = Recommender(model_settings, sequences.items, len(sequences.domains)).to(device)
    if len(trained_users(sequences)) == 0:
        raise TapestryError("train: no user has two training interactions; there is nothing to learn from")
    trainer = Trainer(model, sequences, settings)
    epochs: list[Epoch] = []
    best_weights: dict[str, Tensor] = {}
    best: Epoch | None = None
    for number in range(1, settings.epochs + 1):
        try:
            epoch = Epoch(number, trainer.run(f"epoch {number}/{settings.epochs}"), validate(model))
        except _NotFiniteError as error:
            if best is not None:
                model.load_state_dict(best_weights)
            raise DivergedError(
                f"train: epoch {number}, {error}; lower train.learning_rate or raise train.temperature",
                None if best is None else model.cpu().eval(),
            ) from None
        epochs.append(epoch)
        on_epoch(epoch)
        if best is None or epoch.validation[STOPPING_METRIC] > best.validation[STOPPING_METRIC]:
            best = epoch
            best_weights = copy.deepcopy(model.state_dict())
        elif epoch.epoch - best.epoch >= settings.patience:
            break
    assert best is not None
    model.load_state_dict(best_weights)
    return Training(model.cpu().eval(), best, tuple(epochs))


class Trainer:
    """Trains a model in place, a pass over the training tokens at a time."""

    def __init__(self, model: Recommender, sequences: Sequences, settings: TrainSettings) -> None:
        self._model, self._sequences, self._settings = model, sequences, settings
        self._device = model.item.weight.device
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        self._autocast = torch.autocast(self._device.type, torch.bfloat16, enabled=settings.precision == "bf16")
        self._kernel = model.kernel(self._device, dtype, train=True)
        self._optimizer = Optimizer(model, settings)
        self._shuffle = np.random.default_rng(settings.seed)
        self._negatives = np.random.default_rng([settings.seed, 1])

    def run(self, name: str) -> Pass:
        """One pass over the training tokens, with a progress bar of that name."""
        loss_sum = tape_sum = 0.0
        tokens = computed = 0
        self._model.train()
        started = time.perf_counter()
        total = -(-len(trained_users(self._sequences)) // self._settings.batch_users)
        steps = prefetched(self.steps())
        with tqdm(steps, total=total, desc=name, unit="step", leave=False, disable=None) as bar:
            for number, ready in enumerate(bar, start=1):
                step = to_device(ready, self._device)
                loss = self.step(step)
                if not math.isfinite(loss):
                    raise _NotFiniteError(f"step {number}: the loss is {loss}; {self._describe(step)}")
                count = len(step.batch.item_N)
                loss_sum += loss * count
                tape_sum += float(self._model.tape_norm(step.batch).sum())
                tokens += count
                computed += step.segments.computed
                bar.set_postfix(loss=f"{loss_sum / tokens:.4f}")
        self._optimizer.settle()
        # The loss tells of the weights before a step; a pass may end with weights that no later loss tells of.
        broken = not_finite(self._model.state_dict())
        if broken:
            raise _NotFiniteError(f"after step {number}: weights are NaN or infinite: {broken}")
        return Pass(loss_sum / tokens, tape_sum / tokens, tokens, computed, time.perf_counter() - started)

    def step(self, step: Step) -> float:
        """One update; its loss. A loss that isn't finite leaves the weights as they were."""
        rows = self._optimizer.rows(step.touched_U)
        with self._autocast:
            query_NK = self._model(step.batch, step.segments, rows.value_UK)
        loss = domain_softmax_loss(query_NK, rows.value_UK, step.targets, self._settings.temperature)
        value = loss.item()
        if math.isfinite(value):
            loss.backward()
            self._optimizer.step(rows)
        return value

    def steps(self) -> Iterator[Step]:
        """The steps of one pass, on the CPU."""
        settings, domains = self._settings, self._sequences.domains
        window = self._model.settings.window
        for users, batch in training_batches(self._sequences, window, settings.batch_users, self._shuffle):
            step = prepare_step(self._model, self._kernel, users, batch, domains, settings.negatives, self._negatives)
            yield pinned(step) if self._device.type == "cuda" else step

    def _describe(self, step: Step) -> str:
        """Whom the step was about, and the norms that tell what grew."""
        users = [str(self._sequences.user_id[user]) for user in step.users[:_USERS_NAMED]]
        more = f" and {len(step.users) - len(users)} more" if len(step.users) > len(users) else ""
        norms = {name: float(parameter.detach().norm()) for name, parameter in self._model.named_parameters()}
        largest = ", ".join(f"{name} {norms[name]:.3g}" for name in sorted(norms, key=norms.__getitem__)[-3:])
        tape = float(self._model.tape_norm(step.batch).max())
        return f"users {', '.join(users)}{more}; TAPE's |r| is at most {tape:.3g}; largest norms: {largest}"


class _NotFiniteError(Exception):
    """What a loss, or weights, that aren't finite looked like."""
