"""Section `train` of params.yaml: how the model is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tapestry.core.bounds import Seed, Threads, at_most, between, require


@dataclass(frozen=True)
class TrainSettings:
    """How the model is trained (`tapestry.training.loop`)."""

    epochs: Annotated[int, between(1, 10**6)]
    """Most passes over the training tokens."""
    patience: Annotated[int, between(1, 10**6)]
    """Training stops after so many epochs in a row without a better validation NDCG@10."""
    batch_users: Annotated[int, between(1, 10**6)]
    """Sequences in a step."""
    learning_rate: Annotated[float, at_most(1_000)]
    """Of AdamW (network) and Adam (item embedding)."""
    weight_decay: Annotated[float, between(0, 1_000)]
    """AdamW's, of the matrices of linear layers; embeddings, biases and norms have none."""
    negatives: Annotated[int | None, at_most(10**9)]
    """Negatives that a step draws for each target domain. null, or more than the domain has items: all its items."""
    temperature: Annotated[float, at_most(1_000)]
    """The softmax is over cosines divided by it."""
    seed: Seed
    """Of weights, dropout, shuffling and negatives."""
    device: Literal["auto", "cpu", "cuda"]
    """`auto`: CUDA where there is such a device, else the CPU."""
    precision: Literal["fp32", "bf16"]
    """Of matrix products. Weights, loss and optimizer stay in fp32."""
    threads: Threads
    """CPU threads. The weights' last bits depend on their number."""

    def __post_init__(self) -> None:
        require(
            self.negatives is None or self.negatives >= 1,
            "train.negatives: at least 1, or null for all items",
        )
        require(self.learning_rate > 0, "train.learning_rate: must be above 0")
        require(self.temperature > 0, "train.temperature: must be above 0")
