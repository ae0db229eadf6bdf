"""TAPE: the transition-aware positional encoding (arXiv 2508.20945, section 3).

Suffixes: D domains, K width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TransitionEncoding(nn.Module):
    """r_i = M̂[d_{i+1}] ⊙ (W M̂[d_i] + b) where the next domain d_{i+1} differs from d_i, else 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, width)

    def forward(self, embedding_DK: Tensor) -> Tensor:
        """r for each pair (d_i, d_{i+1}) of domains. Tokens look up their pair. (D, D, K)

        Args:
            embedding_DK: M̂.
        """
        pair_DDK = self.project(embedding_DK)[:, None] * embedding_DK
        differs_DD1 = ~torch.eye(len(embedding_DK), dtype=torch.bool, device=embedding_DK.device)[:, :, None]
        encoding_DDK: Tensor = pair_DDK * differs_DD1
        return encoding_DDK
