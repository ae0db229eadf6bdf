"""Section `evaluate` of params.yaml: how targets are ranked, and the cut-offs of the metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tapestry.core.bounds import Threads, at_most, between, require


@dataclass(frozen=True)
class EvaluateSettings:
    """How the model and the baselines rank targets among the items of a domain (`tapestry.evaluation.ranking`)."""

    exclude_seen: bool
    """Whether a ranking excludes the items of the user's history. The target itself is never excluded."""
    ks: tuple[Annotated[int, at_most(10**9)], ...]
    """Cut-offs K of HR@K and NDCG@K, ascending."""
    batch_users: Annotated[int, between(1, 10**6)]
    """Users in a batch."""
    neighbours: Annotated[int, between(1, 10**5)]
    """Number of neighbours (most similar items) of each item in the item-kNN baseline."""
    device: Literal["auto", "cpu", "cuda"]
    """`auto`: CUDA if a CUDA device is present, else the CPU."""
    threads: Threads
    """CPU threads."""

    def __post_init__(self) -> None:
        require(len(self.ks) <= 1000, f"evaluate.ks: {len(self.ks)} cut-offs; at most 1000")
        require(len(self.ks) > 0, "evaluate.ks: at least one cut-off is needed")
        require(all(k >= 1 for k in self.ks), "evaluate.ks: cut-offs are at least 1")
        require(list(self.ks) == sorted(set(self.ks)), "evaluate.ks: must be ascending, each cut-off once")
