"""The whole network: embeddings and TAPE, then gated layers of self-attention and DDSR.

With `attention: full`, `tape: false` and `ddsr: false` it is the HSTU + ALiBi baseline (arXiv 2402.17152).
All of it computes packed tokens, none padded, in the order of a segments.

Suffixes: N tokens, K width, H heads, E width of a head, D domains, I items, U rows of a table of items.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tapestry.model.attention import alibi_slopes, attend, choose_kernel
from tapestry.model.ddsr import FUSIONS, DomainStateAttention
from tapestry.model.dropout import Dropout
from tapestry.model.segments import Kernel, Segments, arrange
from tapestry.model.settings import ModelSettings
from tapestry.model.tape import TransitionEncoding
from tapestry.sequences.batches import Batch

_EMBEDDING_STD = 0.02


class Layer(nn.Module):
    """H' = H + W_o( LN(A ⊕ C) ⊙ U ), [Q, K, V, U] = W_a LN(H) + b_a, U through SiLU; ⊕ is the fusion."""

    slopes_H: Tensor

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.heads = settings.heads
        self.norm_in = nn.LayerNorm(settings.width)
        self.project = nn.Linear(settings.width, 4 * settings.width)
        self.norm_out = nn.LayerNorm(settings.width)
        self.output = nn.Linear(settings.width, settings.width)
        self.dropout = Dropout(settings.dropout)
        self.ddsr = DomainStateAttention(settings.width, settings.state_dim, settings.heads) if settings.ddsr else None
        self.fusion = FUSIONS[settings.fusion](settings.width, settings.heads) if settings.ddsr else None
        self.register_buffer("slopes_H", alibi_slopes(settings.heads), persistent=False)

    def forward(self, hidden_NK: Tensor, segments: Segments) -> Tensor:
        normed_NK = self.norm_in(hidden_NK)
        # Two products of one matrix: queries, keys and values come out as attention reads them, uncopied.
        inner = 3 * hidden_NK.shape[1]
        qkv_N3K = F.linear(normed_NK, self.project.weight[:inner], self.project.bias[:inner]).unflatten(-1, (3, -1))
        u_NK = F.linear(normed_NK, self.project.weight[inner:], self.project.bias[inner:])
        mixed_NK = attend(qkv_N3K.unflatten(-1, (self.heads, -1)), self.slopes_H, segments).flatten(1)
        if self.ddsr is not None and self.fusion is not None and segments.states is not None:
            mixed_NK = self.fusion(mixed_NK, self.ddsr(normed_NK, segments.states), normed_NK)
        update_NK: Tensor = self.output(self.dropout(self.norm_out(mixed_NK) * F.silu(u_NK)))
        return hidden_NK + update_NK


class Recommender(nn.Module):
    """Packed histories → L2-normalised queries; an item's score is its cosine with the query."""

    def __init__(self, settings: ModelSettings, items: int, domains: int) -> None:
        super().__init__()
        self.settings = settings
        self.domains = domains
        self.item = nn.Embedding(items, settings.width)
        self.domain = nn.Embedding(domains, settings.width)
        self.tape = TransitionEncoding(settings.width) if settings.tape else None
        self.tape_domain = nn.Embedding(domains, settings.width) if settings.tape and not settings.tape_tied else None
        self.dropout = Dropout(settings.dropout)
        self.layers = nn.ModuleList(Layer(settings) for _ in range(settings.layers))
        for embedding in (self.item, self.domain, self.tape_domain):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=_EMBEDDING_STD)

    def kernel(self, device: torch.device, dtype: torch.dtype = torch.float32, train: bool = False) -> Kernel:
        """What attention runs on: in training what `model.kernel` says, else the device's fastest.

        Raises:
            TapestryError: `model.kernel` can't run there.
        """
        settings = self.settings
        wanted = settings.kernel if train else "auto"
        return choose_kernel(wanted, device, dtype, settings.heads, settings.width // settings.heads, train)

    def arrange(self, batch: Batch, kernel: Kernel) -> Segments:
        """The segments in which this network computes `batch`, which is on the CPU."""
        settings = self.settings
        return arrange(batch, kernel, settings.heads, self.domains, settings.attention == "intra", settings.ddsr)

    def forward(self, batch: Batch, segments: Segments, table_UK: Tensor | None = None) -> Tensor:
        """Query of each token for its given target domain, (N, K), of unit length, in the segments's order.

        `batch` is in its own order; its `item_N` are rows of `table_UK`, by default the whole item embedding.
        """
        hidden_NK = self.dropout(self.embed(batch, segments.order_N, table_UK))
        for layer in self.layers:
            hidden_NK = layer(hidden_NK, segments)
        return F.normalize(hidden_NK, dim=-1)

    def embed(self, batch: Batch, order_N: Tensor, table_UK: Tensor | None = None) -> Tensor:
        """h⁰_i = E[x_i]·√K + M[d_i] + r_i for the tokens at `order_N`, (N, K)."""
        item_NK = F.embedding(batch.item_N[order_N], self.item.weight if table_UK is None else table_UK)
        # M and r depend on this domain and the next alone: one small table of sums, one look-up a token.
        pairs_DDK = self.domain.weight[:, None].expand(-1, self.domains, -1)
        if self.tape is not None:
            pairs_DDK = pairs_DDK + self.transitions()
        pair_N = (batch.domain_N * self.domains + batch.target_domain_N)[order_N]
        hidden_NK: Tensor = item_NK * self.settings.width**0.5 + F.embedding(pair_N, pairs_DDK.flatten(0, 1))
        return hidden_NK

    def transitions(self) -> Tensor:
        """TAPE's r for each pair of domains, this and the next, (D, D, K); only where `model.tape` is on."""
        assert self.tape is not None
        embedding = self.domain if self.tape_domain is None else self.tape_domain
        encoding_DDK: Tensor = self.tape(embedding.weight)
        return encoding_DDK

    @torch.no_grad()
    def tape_norm(self, batch: Batch) -> Tensor:
        """TAPE's |r_i| of each token, in the batch's order, (N,); zeros without TAPE."""
        if self.tape is None:
            return torch.zeros(len(batch.domain_N), device=batch.domain_N.device)
        norm_DD: Tensor = self.transitions().norm(dim=-1)
        return norm_DD[batch.domain_N, batch.target_domain_N]

    def item_vectors(self, items: Tensor | slice) -> Tensor:
        """Unit-length vectors of the items, (…, K)."""
        return F.normalize(self.item.weight[items], dim=-1)
