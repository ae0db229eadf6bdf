"""Training with AdamW and early stopping on validation NDCG@10."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tapestry.core.errors import TapestryError
from tapestry.model.device import choose_device, make_deterministic
from tapestry.model.loss import domain_softmax_loss
from tapestry.model.network import EMBEDDING_STD, Recommender
from tapestry.model.request_time import PERIODS, period_of
from tapestry.model.settings import ModelSettings
from tapestry.model.tensors import not_finite, pinned, to_device
from tapestry.sequences.batches import trained_users, training_batches
from tapestry.sequences.reader import Sequences
from tapestry.training.auxiliary import AuxiliaryTargets
from tapestry.training.optimizer import Optimizer
from tapestry.training.schedule import constant, half_cosine
from tapestry.training.settings import STOPPING_METRIC, TrainSettings
from tapestry.training.steps import Step, prefetched, prepare_step

_USERS_NAMED = 10


@dataclass(frozen=True)
class Pass:
    """One pass over the training tokens.

    loss: mean a token, with auxiliary targets. tape_norm: mean |r_i| of TAPE a token, 0 without TAPE. computed:
    positions that attention computed for the tokens, padding included.
    """

    loss: float
    tape_norm: float
    tokens: int
    computed: int
    seconds: float


@dataclass(frozen=True)
class Epoch:
    """One epoch, numbered from 1: its pass over the training tokens and the validation metrics after it."""

    epoch: int
    training: Pass
    validation: dict[str, float]

    def figures(self) -> dict[str, float]:
        """Return the figures that are equal in every run, for tracked files and curves."""
        return {
            "epoch": self.epoch,
            "loss": self.training.loss,
            "tape_norm": self.training.tape_norm,
            **self.validation,
        }

    def timings(self) -> dict[str, float]:
        """Return the figures that differ from run to run or from kernel to kernel."""
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
    """The result of a training: the model with the best epoch's weights, on the CPU, and all epochs."""

    model: Recommender
    best: Epoch
    epochs: tuple[Epoch, ...]

    def summary(self) -> dict[str, Any]:
        """Return the contents of metrics/train.json."""
        return {
            "best": self.best.figures(),
            "final": self.epochs[-1].figures(),
            "epochs": len(self.epochs),
            "tokens": sum(epoch.training.tokens for epoch in self.epochs),
        }

    def tokens_per_second(self) -> float:
        """Return the tokens a second over all passes, without validation."""
        passes = [epoch.training for epoch in self.epochs]
        return sum(part.tokens for part in passes) / sum(part.seconds for part in passes)

    def record(self) -> dict[str, Any]:
        """Return the contents of models/training.json: the summary, and the figures of every epoch."""
        return {"summary": self.summary(), "curve": [epoch.figures() for epoch in self.epochs]}


class DivergedError(TapestryError):
    """The loss or a weight became NaN or infinite. `model` has the best epoch's weights; None in the first epoch."""

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
    """Train for `epochs` epochs, or until `patience` epochs in a row brought no better validation NDCG@10.

    With `refit: validation` the result has the weights of a second training, on training and validation interactions,
    of as many epochs as the best epoch's number. The epochs and their figures are those of the first training.

    Args:
        validate: returns a model's metrics on the validation targets, among them "ndcg_10".
        on_epoch: called after each epoch, to print or log it.

    Raises:
        TapestryError: the device is missing, the attention kernel can't run on it, or there is nothing to train on.
        DivergedError: the loss, or a weight at the end of an epoch, is NaN or infinite.
    """
    if len(trained_users(sequences)) == 0:
        raise TapestryError("train: no user has two training interactions; there is nothing to learn from")
    trainer = _start(sequences, model_settings, settings)
    model = trainer.model
    progress = Progress()
    try:
        for number in range(1, settings.epochs + 1):
            name = f"epoch {number}"
            epoch = Epoch(number, trainer.run(f"{name}/{settings.epochs}"), validate(model))
            on_epoch(epoch)
            progress.add(epoch, model)
            if progress.epochs_since_best() >= settings.patience:
                break
        best = progress.best
        assert best is not None
        progress.restore_best(model)
        if settings.refit == "validation":
            refit = _start(sequences.with_validation_trained(), model_settings, settings)
            for number in range(1, best.epoch + 1):
                name = f"epoch {number} of the refit"
                refit.run(f"refit {number}/{best.epoch}")
            model = refit.model.cpu().eval()
    except _NotFiniteError as error:
        raise DivergedError(
            f"train: {name}, {error}; lower train.learning_rate or raise train.temperature",
            None if progress.best is None else progress.restore_best(model),
        ) from None
    return Training(model, best, tuple(progress.epochs))


def _start(sequences: Sequences, model_settings: ModelSettings, settings: TrainSettings) -> Trainer:
    """Return a trainer with a new model, at the start of its training."""
    device = choose_device(settings.device)
    make_deterministic(settings.seed, settings.threads)
    model = Recommender(model_settings, sequences.items, len(sequences.domains)).to(device)
    if settings.init == "cooccurrence":
        from tapestry.training.initialization import cooccurrence_embedding  # SciPy, which not every machine has

        embedding_IK = cooccurrence_embedding(sequences, model_settings.width, EMBEDDING_STD, settings.seed)
        with torch.no_grad():
            model.item.weight.copy_(embedding_IK)
    return Trainer(model, sequences, settings)


@dataclass(eq=False)
class Progress:
    """The epochs so far, and the weights after the best of them."""

    epochs: list[Epoch] = field(default_factory=list)
    best: Epoch | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def add(self, epoch: Epoch, model: Recommender) -> None:
        """Record an epoch; copy the model's weights if its validation metric is the best so far."""
        self.epochs.append(epoch)
        if self.best is None or epoch.validation[STOPPING_METRIC] > self.best.validation[STOPPING_METRIC]:
            self.best, self.best_weights = epoch, copy.deepcopy(model.state_dict())

    def epochs_since_best(self) -> int:
        """Return the number of epochs after the best one."""
        return 0 if self.best is None else self.epochs[-1].epoch - self.best.epoch

    def restore_best(self, model: Recommender) -> Recommender:
        """Load the best weights into the model and return it, on the CPU and in evaluation mode."""
        model.load_state_dict(self.best_weights)
        return model.cpu().eval()


class Trainer:
    """Trains a model in place, one pass over the training tokens at a time.

    Between two passes, the state of a training is that of this object's model, optimizer, auxiliary targets (a number
    of steps), trained periods and two generators (`_shuffle` orders the users, `_draws` draws negatives and auxiliary
    targets), of torch's default generator (dropout), and the `Progress`.
    """

    def __init__(self, model: Recommender, sequences: Sequences, settings: TrainSettings) -> None:
        self.model, self._sequences, self._settings = model, sequences, settings
        self._device = model.item.weight.device
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        self._autocast = torch.autocast(self._device.type, torch.bfloat16, enabled=settings.precision == "bf16")
        self._kernel = model.kernel(self._device, dtype, train=True)
        self._steps_a_pass = -(-len(trained_users(sequences)) // settings.batch_users)
        steps = settings.epochs * self._steps_a_pass
        schedules = {"constant": constant, "half_cosine": half_cosine(steps)}
        self._optimizer = Optimizer(model, settings, schedules[settings.schedule])
        self._shuffle = np.random.default_rng(settings.seed)
        self._draws = np.random.default_rng([settings.seed, 1])
        self._auxiliary = AuxiliaryTargets(sequences, model.settings.window, settings, steps)
        self._trained_P = torch.zeros(PERIODS, dtype=torch.bool)  # periods of a target

    def run(self, name: str) -> Pass:
        """Train on all training tokens once. `name` labels the progress bar.

        Raises:
            _NotFiniteError: the loss, or a weight after the pass, is NaN or infinite.
        """
        loss_sum = tape_sum = 0.0
        tokens = computed = 0
        self.model.train()
        started = time.perf_counter()
        steps = prefetched(self.steps())
        with tqdm(steps, total=self._steps_a_pass, desc=name, unit="step", leave=False, disable=None) as bar:
            for number, ready in enumerate(bar, start=1):
                step = to_device(ready, self._device)
                loss = self.step(step)
                if not math.isfinite(loss):
                    raise _NotFiniteError(f"step {number}: the loss is {loss}; {self._describe(step)}")
                count = len(step.batch.item_N)
                loss_sum += loss * count
                tape_sum += float(self.model.tape_norm(step.batch).sum())
                tokens += count
                computed += step.segments.computed
                bar.set_postfix(loss=f"{loss_sum / tokens:.4f}")
        self._optimizer.catch_up_all()
        if self.model.request_time is not None:
            self.model.request_time.fill(self._trained_P.to(self._device))
        # A loss shows only weights from before its step, and only weights that the step reads.
        broken = not_finite(self.model.state_dict())
        if broken:
            raise _NotFiniteError(f"after step {number}: weights are NaN or infinite: {broken}")
        return Pass(loss_sum / tokens, tape_sum / tokens, tokens, computed, time.perf_counter() - started)

    def step(self, step: Step) -> float:
        """Do one training step: forward pass, backward pass and update of all weights. Return its loss.

        If the loss is NaN or infinite, the weights are not updated.
        """
        table_UK = self._optimizer.read(step.touched_U)
        with self._autocast:
            query_RK = self.model(step.batch, step.segments, table_UK, step.requests)
        loss = domain_softmax_loss(
            query_RK, table_UK, step.targets, self._settings.temperature, step.weight_R, len(step.batch.item_N)
        )
        value = loss.item()
        if math.isfinite(value):
            loss.backward()
            self._optimizer.step()
        return value

    def steps(self) -> Iterator[Step]:
        """Yield the steps of one pass; their tensors are on the CPU."""
        settings, sequences, window = self._settings, self._sequences, self.model.settings.window
        for users, batch in training_batches(sequences, window, settings.batch_users, self._shuffle):
            auxiliary = self._auxiliary.of_next_step(users, batch, self._draws)
            step = prepare_step(
                self.model, self._kernel, sequences, users, batch, settings.negatives, self._draws, auxiliary
            )
            self._trained_P[period_of(step.requests.time_R)] = True
            yield pinned(step) if self._device.type == "cuda" else step

    def _describe(self, step: Step) -> str:
        """Return the step's users, and the largest norms, for the message about a loss that isn't finite."""
        users = [str(self._sequences.user_id[user]) for user in step.users[:_USERS_NAMED]]
        more = f" and {len(step.users) - len(users)} more" if len(step.users) > len(users) else ""
        norms = {name: float(parameter.detach().norm()) for name, parameter in self.model.named_parameters()}
        largest = ", ".join(f"{name} {norms[name]:.3g}" for name in sorted(norms, key=norms.__getitem__)[-3:])
        tape = float(self.model.tape_norm(step.batch).max())
        return f"users {', '.join(users)}{more}; TAPE's |r| is at most {tape:.3g}; largest norms: {largest}"


class _NotFiniteError(Exception):
    """A loss or weights aren't finite; the message describes them."""
