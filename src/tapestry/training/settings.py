"""Section `train` of params.yaml: how the model is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tapestry.core.bounds import Fraction, Seed, Threads, at_most, between, require
from tapestry.core.validation_figure import ValidationFigure


def _validation_figure(value: Any, name: str) -> None:
    """Rule: the name of a validation figure."""
    ValidationFigure.of_name(value, name)


@dataclass(frozen=True)
class TrainSettings:
    """How the model is trained, see `tapestry.training.loop`."""

    epochs: Annotated[int, between(1, 10**6)]
    """Maximum number of passes over the training tokens."""
    patience: Annotated[int, between(1, 10**6)]
    """Training stops after this number of consecutive epochs without a better figure `stop_by`."""
    init: Literal["random", "cooccurrence"]
    """Item embeddings to start from: `random`, or `cooccurrence`: items of the same users are close
    (`tapestry.training.initialization`)."""
    schedule: Literal["constant", "half_cosine", "cosine", "plateau"]
    """Of the learning rate: `constant`; `half_cosine`: constant for half of the steps of `epochs`, then along half a
    cosine to 0; `cosine`: along half a cosine to 0 over all steps; `plateau`: lower once the figure `stop_by` no longer
    gets better (`tapestry.training.schedule`). Early stopping may end a training before. With `warmup_epochs`, the
    steps are those after them."""
    auxiliary: Literal["none", "domains", "items"]
    """Auxiliary targets of a token, beside the interaction that follows it: `domains`, the next interaction in each
    other domain; `items`, the second to the fourth interaction after it (`tapestry.training.auxiliary`)."""
    auxiliary_weight: Annotated[float, between(0, 1_000)]
    """λ, the mean weight of an auxiliary target in the loss in the first half of the steps."""
    auxiliary_rate: float
    """p, the probability that a step uses an auxiliary target, in (0, 1]; it falls to 0 in the second half of the
    steps."""
    refit: Literal["none", "validation"]
    """`validation`: after early stopping, train anew on training and validation interactions, for as many epochs as
    the best model had."""
    batch_users: Annotated[int, between(1, 10**6)]
    """Users (sequences) in a step."""
    learning_rate: Annotated[float, at_most(1_000)]
    """Learning rate of AdamW (network) and Adam (item embedding)."""
    weight_decay: Annotated[float, between(0, 1_000)]
    """AdamW's weight decay, only of the weights of linear layers; other embeddings than that of items
    (`embedding_weight_decay`), biases and norms have none."""
    negatives: Annotated[int | None, at_most(10**9)]
    """Negatives that a step draws for each target domain; all items of the domain if null or if it has no more."""
    temperature: Annotated[float, at_most(1_000)]
    """The loss is a softmax over cosines / temperature."""
    seed: Seed
    """Seed of initial weights, dropout, the order of users, and negatives."""
    device: Literal["auto", "cpu", "cuda"]
    """`auto`: CUDA if a CUDA device is present, else the CPU."""
    precision: Literal["fp32", "bf16"]
    """Precision of matrix products. Weights, loss and optimizer are in fp32 in any case."""
    threads: Threads
    """CPU threads of each process. The weights' last bits depend on this number."""
    launcher: Literal["none", "torchrun"] = "none"
    """`torchrun`: several processes train together (`tapestry.parallel.launch`)."""
    processes: Annotated[int, between(1, 1024)] = 1
    """Processes on each machine. Gradients are those of one process, but for rounding and the draws of dropout."""
    stop_by: Annotated[str, _validation_figure] = "ndcg_10"
    """The validation figure by which training stops early and by which the best epoch is chosen: `hr_K`, `ndcg_K` or
    `mrr`; with the prefix `domain_`, its mean over domains; with a suffix such as `_of_999`, among so many sampled
    negatives (`tapestry.evaluation.validation`)."""
    own_items_as_negatives: bool = True
    """Whether an item that a user has chosen in training, before or after, may be a negative of another target of that
    user. A target is never its own negative."""
    embedding_weight_decay: Annotated[float, between(0, 1_000)] = 0.0
    """Lazy weight decay of the item embedding: each step multiplies the rows that it reads by 1 − learning rate ·
    decay, and leaves all others (`tapestry.training.row_adam.RowAdam`)."""
    warmup_epochs: Annotated[int, between(0, 10**6)] = 0
    """The learning rate rises along a line over the steps of these epochs: of W steps, step s has s / W of it."""
    plateau_factor: Fraction = 0.3162
    """`plateau`: the learning rate is multiplied by this number, in (0, 1], at each decrease."""
    plateau_patience: Annotated[int, between(0, 10**6)] = 5
    """`plateau`: the learning rate decreases once more than this number of epochs in a row brought no better figure
    `stop_by`. After a decrease the epochs are counted anew. To have an effect it must be below `patience`."""
    average_share: Fraction = 0.0
    """Share of `epochs`, the last ones, of whose weights the model has the mean (`tapestry.training.average`).
    Validation figures, and so the best epoch, are of the mean so far. 0: weights are those after an epoch."""

    def __post_init__(self) -> None:
        require(
            self.negatives is None or self.negatives >= 1,
            "train.negatives: at least 1, or null for all items",
        )
        require(0 < self.auxiliary_rate <= 1, f"train.auxiliary_rate: {self.auxiliary_rate} is not in (0, 1]")
        require(
            self.launcher == "torchrun" or self.processes == 1,
            f"train.processes: {self.processes} need train.launcher: torchrun",
        )
        require(self.learning_rate > 0, "train.learning_rate: must be above 0")
        require(self.temperature > 0, "train.temperature: must be above 0")
        require(
            self.warmup_epochs < self.epochs,
            f"train.warmup_epochs: {self.warmup_epochs} must be below train.epochs: {self.epochs}",
        )
        require(self.plateau_factor > 0, "train.plateau_factor: must be above 0")
