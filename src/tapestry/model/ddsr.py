"""DDSR: attention of each position over the last state of each domain, O(D·n) (arXiv 2508.20945).

Suffixes: N tokens, D domains, H heads, C = state_dim, E = C / H, K model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DomainStateAttention(nn.Module):
    """Queries, keys and values are C-wide projections of the layer's normalised input.

    Keys and values are projected once a token, then gathered: the state of a domain at position i is that
    of its last token at or before i. A position's own domain is itself; domains not seen yet are masked.
    """

    def __init__(self, width: int, state_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * state_dim)
        self.output = nn.Linear(state_dim, width)

    def forward(self, hidden_NK: Tensor, last_ND: Tensor) -> Tensor:
        """C_i for each token, (N, K). `last_ND`: index of each domain's last token, -1 for none."""
        tokens, domains = last_ND.shape
        q_NC, k_NC, v_NC = self.project(hidden_NK).chunk(3, dim=-1)
        index = last_ND.clamp(min=0).flatten()
        q_NHE = q_NC.view(tokens, self.heads, -1)
        k_NDHE = k_NC.index_select(0, index).view(tokens, domains, self.heads, -1)
        v_NDHE = v_NC.index_select(0, index).view(tokens, domains, self.heads, -1)
        score_NDH = (q_NHE[:, None] * k_NDHE).sum(-1) / q_NHE.shape[-1] ** 0.5
        score_NDH = score_NDH.masked_fill((last_ND < 0)[:, :, None], float("-inf"))
        out_NHE = (torch.softmax(score_NDH, dim=1)[..., None] * v_NDHE).sum(1)
        output_NK: Tensor = self.output(out_NHE.flatten(1))
        return output_NK
