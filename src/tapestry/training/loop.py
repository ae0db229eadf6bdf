"""Training with AdamW and early stopping on a validation figure (`train.stop_by`)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tapestry.core.errors import TapestryError
from tapestry.model.device import choose_device, make_deterministic
from tapestry.model.network import EMBEDDING_STD, Recommender
from tapestry.model.settings import ModelSettings
from tapestry.parallel.processes import ALONE, Processes
from tapestry.parallel.shard import Shard
from tapestry.sequences.batches import trained_users
from tapestry.sequences.reader import Sequences
from tapestry.training.average import EpochAverage
from tapestry.training.checkpoints import Checkpoints, weights_state
from tapestry.training.schedule import plateau
from tapestry.training.settings import TrainSettings
from tapestry.training.trainer import NotFiniteError, Pass, Trainer


@dataclass(frozen=True)
class Epoch:
    """One epoch, numbered from 1: its pass over the training tokens and the validation figures after it.

    stop_by: the name of the figure that compares epochs.
    """

    epoch: int
    training: Pass
    validation: dict[str, float]
    stop_by: str

    def stopping_figure(self) -> float:
        """Return the figure that compares epochs: greater is better."""
        return self.validation[self.stop_by]

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
        names = dict.fromkeys(("hr_10", "hr_100", "ndcg_10", "mrr", self.stop_by))
        shown = ", ".join(f"{name} {self.validation[name]:.4f}" for name in names)
        timings = self.timings()
        return (
            f"epoch {self.epoch}: loss {self.training.loss:.4f}, validation {shown}; {self.training.seconds:.1f} s of "
            f"training, {timings['tokens_per_second']:,.0f} tokens/s, {timings['useful_tokens']:.0%} useful"
        )


@dataclass(frozen=True)
class Training:
    """The result of a training: the model with the best epoch's weights, on the CPU, and all epochs.

    With `average_share`, an epoch's weights are those of `EpochAverage`, also for its validation figures.
    """

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
    checkpoints: Checkpoints | None = None,
    processes: Processes = ALONE,
) -> Training:
    """Train for `epochs` epochs, or until `patience` epochs in a row brought no better figure `stop_by`.

    With `refit: validation` the result has the weights of a second training, on training and validation interactions,
    of as many epochs as the best epoch's number. The epochs and their figures are those of the first training. With
    `schedule: plateau` each epoch of the second training has the learning rate of the same epoch of the first.

    Args:
        validate: returns a model's figures on the validation targets, among them `stop_by`.
        on_epoch: called after each epoch, to print or log it; first with the epochs of the checkpoint.
        checkpoints: where a training that was killed goes on, and ends with the same bytes.
        processes: those that train the model together. The result of the first one has the whole model, that of the
            others only their shards of the item embedding.

    Raises:
        TapestryError: the device is missing, the attention kernel can't run on it, or there is nothing to train on.
        DivergedError: the loss, or a weight at the end of an epoch, is NaN or infinite.
        StoppedError: `checkpoints` was asked to stop; a checkpoint is written.
    """
    training = sequences.training_part()
    if len(trained_users(training)) == 0:
        raise TapestryError("train: no user has two training interactions; there is nothing to learn from")
    checkpoint = None if checkpoints is None else checkpoints.read_latest()
    progress = Progress() if checkpoint is None else Progress.of_state(checkpoint["progress"])
    if checkpoint is not None and processes.first:
        steps = checkpoint["trainer"]["part"]["steps"]
        passes = f", {checkpoint['passes']} of the refit" if checkpoint["phase"] == "refit" else ""
        print(f"continues a checkpoint: {len(progress.epochs)} epochs{passes} and {steps} steps are done", flush=True)
    for epoch in progress.epochs:
        on_epoch(epoch)

    def save(trainer: Trainer, phase: str, passes: int) -> None:
        """Write a checkpoint if one is due. The trainer has finished so many passes of this phase."""
        if checkpoints is not None and checkpoints.due():
            state = {"phase": phase, "passes": passes, "progress": progress.state(), "trainer": trainer.state()}
            checkpoints.write(state | {"average": average.state()})

    def rate_factor(number: int) -> float:
        """Return the factor of the learning rate in an epoch, beside that of the schedule of steps."""
        if settings.schedule != "plateau":
            return 1.0
        figures = [epoch.stopping_figure() for epoch in progress.epochs[: number - 1]]
        return plateau(figures, settings.plateau_factor, settings.plateau_patience)

    refitting = checkpoint is not None and checkpoint["phase"] == "refit"
    try:
        if not refitting:
            trainer = _start(training, model_settings, settings, checkpoint, processes)
            average = _average(settings, checkpoint, trainer.model)
            while len(progress.epochs) < settings.epochs and progress.epochs_since_best() < settings.patience:
                number = len(progress.epochs) + 1
                name = f"epoch {number}"
                trainer.set_rate_factor(rate_factor(number))
                trained = trainer.run(f"{name}/{settings.epochs}", partial(save, trainer, "fit", number - 1))
                average.add(number, trainer.model)
                model = average.of(trainer.model)
                epoch = Epoch(number, trained, validate(model), settings.stop_by)
                on_epoch(epoch)
                progress.add(epoch, model)
                save(trainer, "fit", number)
            model = progress.restore_best(trainer.model)
            del trainer  # the moments, before the first process gathers all items
        best = progress.best
        assert best is not None
        if settings.refit == "validation":
            whole = sequences.with_validation_trained().training_part()
            begun = checkpoint if refitting else None
            refit = _start(whole, model_settings, settings, begun, processes)
            average = _average(settings, begun, refit.model)
            done = 0 if begun is None else begun["passes"]
            for number in range(done + 1, best.epoch + 1):
                name = f"epoch {number} of the refit"
                refit.set_rate_factor(rate_factor(number))
                refit.run(f"refit {number}/{best.epoch}", partial(save, refit, "refit", number - 1))
                average.add(number, refit.model)
                save(refit, "refit", number)
            model = average.of(refit.model).cpu().eval()
            del refit
    except NotFiniteError as error:
        raise DivergedError(
            f"train: {name}, {error}; lower train.learning_rate or raise train.temperature",
            None
            if progress.best is None
            else _whole(progress.restore_best(_new_model(sequences, model_settings, processes.shard)), processes),
        ) from None
    progress.best_weights = {}
    return Training(_whole(model, processes), best, tuple(progress.epochs))


def _start(
    sequences: Sequences,
    model_settings: ModelSettings,
    settings: TrainSettings,
    checkpoint: Mapping[str, Any] | None,
    processes: Processes,
) -> Trainer:
    """Return a trainer with a new model, at the start of its training, or where the checkpoint was written."""
    device = choose_device(settings.device)
    make_deterministic(settings.seed, settings.threads)
    model = _new_model(sequences, model_settings, processes.shard).to(device)
    if settings.init == "cooccurrence" and checkpoint is None:
        from tapestry.training.initialization import cooccurrence_embedding  # SciPy, which not every machine has

        embedding_IK = cooccurrence_embedding(sequences, model_settings.width, EMBEDDING_STD, settings.seed)
        with torch.no_grad():
            model.item.weight.copy_(processes.shard.of(embedding_IK))
    trainer = Trainer(model, sequences, settings, processes)
    if checkpoint is not None:
        trainer.load_state(checkpoint["trainer"])
    return trainer


def _average(settings: TrainSettings, checkpoint: Mapping[str, Any] | None, model: Recommender) -> EpochAverage:
    """Return the average of the settings, at its start, or as of the checkpoint."""
    average = EpochAverage(settings.epochs, settings.average_share)
    if checkpoint is not None:
        average.load_state(checkpoint["average"], model)
    return average


def _new_model(sequences: Sequences, settings: ModelSettings, shard: Shard) -> Recommender:
    """Return an untrained model with the neighbours of the training interactions, if it has a weight for them."""
    model = Recommender(settings, sequences.items, len(sequences.domains), shard)
    if settings.neighbour_weight:
        from tapestry.sequences.cooccurrence import neighbours_of  # SciPy, which not every machine has

        model.neighbours = neighbours_of(sequences)
    return model


def _whole(model: Recommender, processes: Processes) -> Recommender:
    """Return the model with the whole item embedding in the first process; as it is in the others."""
    table_IK = processes.gather_rows(model.item.weight.detach(), model.items)
    if processes.count > 1 and table_IK is not None:
        model.hold_all_items(table_IK)
    return model


@dataclass(eq=False)
class Progress:
    """The epochs so far, and the weights after the best of them."""

    epochs: list[Epoch] = field(default_factory=list)
    best: Epoch | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def add(self, epoch: Epoch, model: Recommender) -> None:
        """Record an epoch; copy the model's weights if its stopping figure is the best so far."""
        self.epochs.append(epoch)
        if self.best is None or epoch.stopping_figure() > self.best.stopping_figure():
            self.best, self.best_weights = epoch, copy.deepcopy(model.state_dict())

    def state(self) -> dict[str, Any]:
        """Return what `of_state` makes the same object of: dictionaries of tensors, not copied, and values for JSON."""
        return {
            "epochs": [dataclasses.asdict(epoch) for epoch in self.epochs],
            "best": None if self.best is None else self.best.epoch,
            "best_weights": weights_state(self.best_weights),
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Progress:
        """Return the object whose `state` this is."""
        epochs = [Epoch(**(epoch | {"training": Pass(**epoch["training"])})) for epoch in state["epochs"]]
        best = None if state["best"] is None else epochs[state["best"] - 1]
        return cls(epochs, best, state["best_weights"])

    def epochs_since_best(self) -> int:
        """Return the number of epochs after the best one."""
        return 0 if self.best is None else self.epochs[-1].epoch - self.best.epoch

    def restore_best(self, model: Recommender) -> Recommender:
        """Load the best weights into the model and return it, on the CPU and in evaluation mode."""
        model.load_state_dict(self.best_weights)
        return model.cpu().eval()
