"""Section `model` of params.yaml: the network. docs/model.md has its equations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tapestry.core.bounds import between, fraction, require


@dataclass(frozen=True)
class ModelSettings:
    """The network (arXiv 2508.20945).

    With `attention: full`, `tape: false`, `ddsr: false` and `target_state: false` it is HSTU with ALiBi (arXiv
    2402.17152).
    """

    width: Annotated[int, between(1, 65_536)]
    """K, the width of embeddings and hidden states; divisible by `heads`."""
    layers: Annotated[int, between(1, 1_000)]
    """Layers of a stack, each of gated self-attention and, with `ddsr`, cross-domain attention."""
    heads: Annotated[int, between(1, 1_024)]
    """H, heads of self-attention and of cross-domain attention."""
    window: Annotated[int, between(1, 10**6)]
    """Positions: the model reads the most recent `window` interactions of a history."""
    attention: Literal["intra", "full", "intra_full", "intra_and_full"]
    """`intra`: a position attends to earlier ones of its own domain. `full`: to all earlier ones. `intra_full`: full in
    the last layer, which then has no DDSR, and intra in the layers below. `intra_and_full`: two stacks of `layers`
    layers side by side, one full and without DDSR, one intra, whose state of the target's domain the query adds."""
    kernel: Literal["auto", "reference", "tiled", "triton"]
    """The kernel of self-attention in training (`tapestry.model.attention.choose_kernel`). Results are equal."""
    tape: bool
    """Whether inputs have TAPE, the transition-aware positional encoding (section 3 of the paper)."""
    tape_tied: bool
    """Whether TAPE uses the domain embedding of the input. Otherwise it has an embedding of its own."""
    ddsr: bool
    """Whether layers have cross-domain attention over the last state of each domain (DDSR)."""
    state_dim: Annotated[int, between(1, 65_536)]
    """C, the width of a domain's state in DDSR; divisible by `heads`."""
    fusion: Literal["sum", "gate"]
    """How a layer joins DDSR's output with self-attention's (`tapestry.model.ddsr.FUSIONS`). `sum`: adds both.
    `gate`: first multiplies DDSR's output by a learned gate of each token and head."""
    request_time: bool
    """Whether a query depends on the time of the request, by a vector a period of 30 days
    (`tapestry.model.request_time`)."""
    target_state: bool
    """Whether a query adds the state of the target's domain, by a learned gate (`tapestry.model.target_state`)."""
    dropout: float
    """Dropout rate of the input and of each layer's update, in [0, 1)."""
    recent_weight: Annotated[float, fraction] = 0.0
    """What an item's score adds for each unit of log(1 + n), n its interactions in the 30 days before the request. It
    doubles with every 30 days since the training data end (`tapestry.sequences.recent`). 0: nothing is counted."""
    target_gate: Annotated[float, fraction] = 0.0
    """Each entry of the gate of `target_state` before training. From 0 models rank less well (studies/state_start)."""

    neighbour_weight: Annotated[float, fraction] = 0.0
    """The most that the neighbours of a history's items add to a score (`tapestry.sequences.neighbours`): item-kNN
    beside the network. Training doesn't read it. 0: nothing is added."""

    def __post_init__(self) -> None:
        require(
            self.target_state or self.attention != "intra_and_full",
            "model.attention: intra_and_full: the layers within domains reach the query only by model.target_state: "
            "set it to true",
        )
        require(0 <= self.dropout < 1, f"model.dropout: {self.dropout} is not in [0, 1)")
        for name in ("width", "state_dim"):
            require(
                getattr(self, name) % self.heads == 0,
                f"model.{name}: {getattr(self, name)} is not divisible by model.heads = {self.heads}",
            )
