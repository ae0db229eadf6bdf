"""Causal self-attention with ALiBi over packed histories, within each domain or over all of them.

One interface, `attend`; the path here is the dense masked reference.

Suffixes: N tokens of a batch, B histories, S longest history, H heads, E width of a head, D domains.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a packed batch stand: domain_N, position_N and offsets_B1, all int64."""

    domain_N: Tensor
    position_N: Tensor
    offsets_B1: Tensor

    def padded(self) -> tuple[Tensor, Tensor]:
        """Index of each token in a (B·S) padded batch, (N,), and the padded domains (B, S), -1 for none."""
        lengths_B = self.offsets_B1.diff()
        longest = int(lengths_B.max())
        history_N = torch.repeat_interleave(torch.arange(len(lengths_B), device=lengths_B.device), lengths_B)
        slot_N = history_N * longest + self.position_N
        domain = torch.full((len(lengths_B) * longest,), -1, device=slot_N.device)
        domain[slot_N] = self.domain_N
        return slot_N, domain.view(len(lengths_B), longest)

    def last_of_domain(self, domains: int) -> Tensor:
        """Index of the last token of each domain at or before each token of its history; -1 for none. (N, D)"""
        index_N = torch.arange(len(self.domain_N), device=self.domain_N.device)
        occurs_ND = self.domain_N[:, None] == torch.arange(domains, device=index_N.device)
        last_ND = torch.where(occurs_ND, index_N[:, None], -1).cummax(dim=0).values
        return torch.where(last_ND >= (index_N - self.position_N)[:, None], last_ND, -1)


def alibi_slopes(heads: int) -> Tensor:
    """m_h = 2^(-8h/H), h = 1 … H (arXiv 2108.12409). (H,)"""
    return torch.tensor([2 ** (-8 * (head + 1) / heads) for head in range(heads)])


def attend(q_NHE: Tensor, k_NHE: Tensor, v_NHE: Tensor, layout: Layout, slopes_H: Tensor, intra: bool) -> Tensor:
    """softmax over { j ≤ i, of i's domain if `intra` } of q·k/√E − m_h (i − j), applied to v. (N, H, E)

    i and j are positions in the whole history, also within one domain (arXiv 2508.20945, section 3).
    """
    slot_N, domain_BS = layout.padded()
    batch, longest = domain_BS.shape

    def pad(x_NHE: Tensor) -> Tensor:
        padded = x_NHE.new_zeros(batch * longest, *x_NHE.shape[1:]).index_copy(0, slot_N, x_NHE)
        return padded.view(batch, longest, *x_NHE.shape[1:]).transpose(1, 2)

    position_S = torch.arange(longest, device=slot_N.device)
    distance_SS = position_S[:, None] - position_S
    allowed_BSS = (distance_SS >= 0)[None]
    if intra:
        allowed_BSS = allowed_BSS & (domain_BS[:, :, None] == domain_BS[:, None, :])
    bias_HSS = -slopes_H.to(q_NHE.dtype)[:, None, None] * distance_SS
    # Padding is right of every token, and of a domain of its own: causality hides it from tokens.
    bias_BHSS = torch.where(allowed_BSS[:, None], bias_HSS, float("-inf"))
    out_BHSE = F.scaled_dot_product_attention(pad(q_NHE), pad(k_NHE), pad(v_NHE), attn_mask=bias_BHSS)
    return out_BHSE.transpose(1, 2).reshape(batch * longest, *v_NHE.shape[1:])[slot_N]
