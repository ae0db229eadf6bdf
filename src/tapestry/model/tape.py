"""TAPE: the transition-aware positional encoding (arXiv 2508.20945)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TransitionEncoding(nn.Module):
    """r_i = M̂[d_{i+1}] ⊙ (W M̂[d_i] + b) where the next domain differs from this one, else 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, width)

    def forward(self, domain_N: Tensor, next_domain_N: Tensor, embedding_DK: Tensor) -> Tensor:
        """Encoding of each token, (N, K)."""
        # D² distinct vectors at most: computed once each, then looked up.
        pair_DDK = self.project(embedding_DK)[:, None] * embedding_DK
        domains = len(embedding_DK)
        differs_DD1 = ~torch.eye(domains, dtype=torch.bool, device=embedding_DK.device)[:, :, None]
        table = (pair_DDK * differs_DD1).flatten(0, 1)
        return nn.functional.embedding(domain_N * domains + next_domain_N, table)
