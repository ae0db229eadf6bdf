"""The whole network: embeddings and TAPE, then gated layers of self-attention and DDSR.

With `attention: full`, `tape: false` and `ddsr: false` it is the HSTU + ALiBi baseline (arXiv 2402.17152).

Suffixes: N tokens, K width, H heads, E width of a head, D domains, I items.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tapestry.config import ModelConfig
from tapestry.data.batches import Batch
from tapestry.model.attention import Layout, alibi_slopes, attend
from tapestry.model.ddsr import DomainStateAttention
from tapestry.model.tape import TransitionEncoding

_EMBEDDING_STD = 0.02


class Layer(nn.Module):
    """H' = H + W_o( LN(A ⊕ C) ⊙ U ), [Q, K, V, U] = W_a LN(H) + b_a, U through SiLU; ⊕ is the fusion."""

    slopes_H: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.intra = config.attention == "intra"
        self.norm_in = nn.LayerNorm(config.width)
        self.project = nn.Linear(config.width, 4 * config.width)
        self.norm_out = nn.LayerNorm(config.width)
        self.output = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.ddsr = DomainStateAttention(config.width, config.state_dim, config.heads) if config.ddsr else None
        self.gate = nn.Linear(config.width, config.heads) if config.ddsr and config.fusion == "gate" else None
        self.register_buffer("slopes_H", alibi_slopes(config.heads), persistent=False)

    def forward(self, hidden_NK: Tensor, layout: Layout, last_ND: Tensor | None) -> Tensor:
        normed_NK = self.norm_in(hidden_NK)
        q_NK, k_NK, v_NK, u_NK = self.project(normed_NK).chunk(4, dim=-1)
        q_NHE, k_NHE, v_NHE = (x.unflatten(-1, (self.heads, -1)) for x in (q_NK, k_NK, v_NK))
        mixed_NK = attend(q_NHE, k_NHE, v_NHE, layout, self.slopes_H, self.intra).flatten(1)
        if self.ddsr is not None and last_ND is not None:
            states_NK = self.ddsr(normed_NK, last_ND)
            if self.gate is not None:
                gate_NH1 = torch.sigmoid(self.gate(normed_NK))[..., None]
                states_NK = (gate_NH1 * states_NK.unflatten(-1, (self.heads, -1))).flatten(1)
            mixed_NK = mixed_NK + states_NK
        update_NK: Tensor = self.output(self.dropout(self.norm_out(mixed_NK) * F.silu(u_NK)))
        return hidden_NK + update_NK


class Recommender(nn.Module):
    """Packed histories → L2-normalised queries; an item's score is its cosine with the query."""

    def __init__(self, config: ModelConfig, items: int, domains: int) -> None:
        super().__init__()
        self.config = config
        self.domains = domains
        self.item = nn.Embedding(items, config.width)
        self.domain = nn.Embedding(domains, config.width)
        self.tape = TransitionEncoding(config.width) if config.tape else None
        self.tape_domain = nn.Embedding(domains, config.width) if config.tape and not config.tape_tied else None
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        for embedding in (self.item, self.domain, self.tape_domain):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=_EMBEDDING_STD)

    def forward(self, batch: Batch) -> Tensor:
        """Query of each token for its given target domain, (N, K), of unit length."""
        layout = Layout(batch.domain_N, batch.position_N, batch.offsets_B1)
        last_ND = layout.last_of_domain(self.domains) if self.config.ddsr else None
        hidden_NK = self.dropout(self.embed(batch))
        for layer in self.layers:
            hidden_NK = layer(hidden_NK, layout, last_ND)
        return F.normalize(hidden_NK, dim=-1)

    def embed(self, batch: Batch) -> Tensor:
        """h⁰_i = E[x_i]·√K + M[d_i] + r_i, (N, K)."""
        hidden_NK: Tensor = self.item(batch.item_N) * self.config.width**0.5 + self.domain(batch.domain_N)
        if self.tape is not None:
            hidden_NK = hidden_NK + self.transition(batch)
        return hidden_NK

    def transition(self, batch: Batch) -> Tensor:
        """TAPE's r_i, (N, K); only where `model.tape` is on."""
        assert self.tape is not None
        embedding = self.domain if self.tape_domain is None else self.tape_domain
        encoding: Tensor = self.tape(batch.domain_N, batch.target_domain_N, embedding.weight)
        return encoding

    def item_vectors(self, items: Tensor | slice) -> Tensor:
        """Unit-length vectors of the items, (…, K)."""
        return F.normalize(self.item.weight[items], dim=-1)
