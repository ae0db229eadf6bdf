"""Section `evaluate` of params.yaml: how the model and the baselines rank targets, and at which cut-offs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tapestry.core.bounds import Threads, at_most, between, require


@dataclass(frozen=True)
class EvaluateSettings:
    """How targets are ranked among their domain's items (`tapestry.evaluation.ranking`)."""

    exclude_seen: bool
    """Whether the items of a user's history are left out of the ranking. The target itself always stays."""
    ks: tuple[Annotated[int, at_most(10**9)], ...]
    """Cut-offs K of HR@K and NDCG@K, ascending."""
    batch_users: Annotated[int, between(1, 10**6)]
    """Sequences ranked at a time."""
    neighbours: Annotated[int, between(1, 10**5)]
    """Most similar items that the item-kNN baseline keeps of each item."""
    device: Literal["auto", "cpu", "cuda"]
    """`auto`: CUDA where there is such a device, else the CPU."""
    threads: Threads
    """CPU threads."""

    def __post_init__(self) -> None:
        require(len(self.ks) <= 1000, f"evaluate.ks: {len(self.ks)} cut-offs; at most 1000")
        require(len(self.ks) > 0, "evaluate.ks: at least one cut-off is needed")
        require(all(k >= 1 for k in self.ks), "evaluate.ks: cut-offs are at least 1")
        require(list(self.ks) == sorted(set(self.ks)), "evaluate.ks: must be ascending, each cut-off once")
