"""DDSR: cross-domain attention over the last state of each domain, and its fusion with self-attention.

For position i of a layer, with X = LN(H) the layer's normalised input:

    [Q, K, V] = W_p X + b_p                 W_p ∈ R^{3·state_dim × K}; Q, K and V are state_dim wide, E a head
    s(i, d)   = last position of domain d at or before i; i itself for the domain of i; none if d is not seen yet
    P_id      = softmax over the domains d seen so far of Q_i · K_s(i,d) / √E, for each head
    C_i       = W_c Σ_d P_id V_s(i,d) + b_c,                W_c ∈ R^{K × state_dim}

Then a fusion joins C with A, the output of self-attention. To add a fusion: write its module here, enter it in
`FUSIONS`, and add its name to `model.fusion` in settings.py.

Source: arXiv 2508.20945. Suffixes: N tokens, H heads, E = state_dim / H width of a head, K model width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tapestry.model.kernels.domain_states import States, attend_states


class DomainStateAttention(nn.Module):
    """C of this module's equations. Keys and values are projected once a token, and then gathered."""

    def __init__(self, width: int, state_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * state_dim)
        self.output = nn.Linear(state_dim, width)

    def forward(self, normed_NK: Tensor, states: States) -> Tensor:
        """C_i for each token, (N, K)."""
        qkv_N3HE = self.project(normed_NK).unflatten(-1, (3, self.heads, -1))
        cross_NK: Tensor = self.output(attend_states(qkv_N3HE, states).flatten(1))
        return cross_NK


class SumFusion(nn.Module):
    """A + C, the paper's fusion."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()

    def forward(self, self_NK: Tensor, cross_NK: Tensor, normed_NK: Tensor) -> Tensor:
        """Join self-attention's and DDSR's outputs, (N, K)."""
        return self_NK + cross_NK


class GateFusion(nn.Module):
    """A + g ⊙ C, with g = sigmoid(W_g X + b_g) a gate of each token and head: W_g ∈ R^{H×K}."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.gate = nn.Linear(width, heads)

    def forward(self, self_NK: Tensor, cross_NK: Tensor, normed_NK: Tensor) -> Tensor:
        """Join self-attention's and DDSR's outputs, (N, K)."""
        gate_NH1 = torch.sigmoid(self.gate(normed_NK))[..., None]
        gated_NK: Tensor = (gate_NH1 * cross_NK.unflatten(-1, (self.heads, -1))).flatten(1)
        return self_NK + gated_NK


FUSIONS: Mapping[str, type[SumFusion] | type[GateFusion]] = {"sum": SumFusion, "gate": GateFusion}
"""The fusions by their name in `model.fusion`. Each is made from (width, heads)."""
