"""DDSR: cross-domain attention over the last state of each domain, and its fusion with self-attention.

For position i of a layer, with X = LN(H) the layer's normalised input:

    [q', k', v'] = W_s X + b_s              W_s ∈ R^{3C × K} with C = state_dim; q', k' and v' are C wide, E a head
    l(i, d)      = last position of domain d at or before i; i itself for the domain of i; none if d is not seen yet
    p_id         = softmax over the domains d seen so far of q'_i · k'_l(i,d) / √E, for each head
    c_i          = W_c Σ_d p_id v'_l(i,d) + b_c,            W_c ∈ R^{K × C}

Then a fusion joins c_i with a_i, the output of self-attention, to z_i. To add a fusion: write its module here, enter it
in `FUSIONS`, add its name to `model.fusion` in settings.py, and its equation to `NAIVE_FUSIONS` in
tests/model/test_network.py. The letters are those of docs/model.md.

Source: arXiv 2508.20945. Suffixes: N tokens, H heads, E = C / H width of a head, K model width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from tapestry.model.kernels.domain_states import Reads, States, attend_states


class DomainStateAttention(nn.Module):
    """c_i of this module's equations. Keys and values are projected once a token, and then gathered."""

    def __init__(self, width: int, state_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * state_dim)
        self.output = nn.Linear(state_dim, width)

    def forward(self, normed_NK: Tensor, states: States | Reads) -> Tensor:
        """Return c_i of each token, (N, K)."""
        qkv_N3HE = self.project(normed_NK).unflatten(-1, (3, self.heads, -1))
        cross_NK: Tensor = self.output(attend_states(qkv_N3HE, states).flatten(1))
        return cross_NK


class SumFusion(nn.Module):
    """z_i = a_i + c_i, the paper's fusion."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()

    def forward(self, self_NK: Tensor, cross_NK: Tensor, normed_NK: Tensor) -> Tensor:
        """Return z_i of each token, (N, K), from self-attention's and DDSR's outputs."""
        return self_NK + cross_NK


class GateFusion(nn.Module):
    """z_i = a_i + g_i ⊙ c_i, with g = sigmoid(W_g X + b_g) a gate of each token and head: W_g ∈ R^{H×K}."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.gate = nn.Linear(width, heads)

    def forward(self, self_NK: Tensor, cross_NK: Tensor, normed_NK: Tensor) -> Tensor:
        """Return z_i of each token, (N, K), from self-attention's and DDSR's outputs."""
        gate_NH1 = torch.sigmoid(self.gate(normed_NK))[..., None]
        gated_NK: Tensor = (gate_NH1 * cross_NK.unflatten(-1, (self.heads, -1))).flatten(1)
        return self_NK + gated_NK


FUSIONS: Mapping[str, Callable[[int, int], nn.Module]] = {"sum": SumFusion, "gate": GateFusion}
"""The fusions by their name in `model.fusion`. Each is made from (width, heads)."""
