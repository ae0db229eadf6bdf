"""The network: embeddings and TAPE, then layers of gated self-attention and DDSR.

    h⁰_i         = E[x_i]·√K + M[d_i] + r_i                 (r: TAPE, tape.py)
    X            = LN(H)
    [Q, K, V, U] = W_a X + b_a
    A            = self-attention of Q, K and V             (attention.py)
    C            = DDSR of X                                (ddsr.py)
    H'           = H + W_o( LN(A ⊕ C) ⊙ SiLU(U) ) + b_o     (⊕: the fusion, ddsr.py)
    query_i(d,t) = normalize(h_i + g ⊙ h_l(i,d) + A[period(t)])  (target_state.py, request_time.py; else h_i / |h_i|)

With `attention: intra_and_full` two stacks of layers read H⁰: h_i is of the one that attends to all domains, and
h_l(i,d) of the one that attends within domains.

With `attention: full`, `tape: false`, `ddsr: false` and `target_state: false` it is HSTU's gated layer with ALiBi
(arXiv 2402.17152). All layers compute packed tokens, without padding, in the order of `Segments`.

Suffixes: N tokens, K width, H heads, E width of a head, D domains, U rows of a table of items, R requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tapestry.model.attention import alibi_slopes, attend, choose_kernel
from tapestry.model.ddsr import FUSIONS, DomainStateAttention
from tapestry.model.dropout import Dropout
from tapestry.model.request_time import Requests, RequestTime
from tapestry.model.segments import Kernel, Segments, arrange
from tapestry.model.settings import ModelSettings
from tapestry.model.tape import TransitionEncoding
from tapestry.model.target_state import TargetState
from tapestry.parallel.shard import WHOLE, Shard
from tapestry.sequences.batches import Batch
from tapestry.sequences.neighbours import Neighbours

EMBEDDING_STD = 0.02
ITEM_WEIGHT = "item.weight"  # the item embedding in a model's state
_DRAWN = 1 << 16  # rows of the item embedding that are drawn at a time


class Layer(nn.Module):
    """One layer: H' of this module's equations. Dropout is on LN(A ⊕ C) ⊙ SiLU(U)."""

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
        """H' from H, (N, K)."""
        normed_NK = self.norm_in(hidden_NK)
        # Two products with parts of W_a: queries, keys and values are contiguous, so attention doesn't copy them.
        inner = 3 * hidden_NK.shape[1]
        qkv_N3HE = F.linear(normed_NK, self.project.weight[:inner], self.project.bias[:inner]).unflatten(
            -1, (3, self.heads, -1)
        )
        u_NK = F.linear(normed_NK, self.project.weight[inner:], self.project.bias[inner:])
        mixed_NK = attend(qkv_N3HE, self.slopes_H, segments).flatten(1)
        if self.ddsr is not None and self.fusion is not None and segments.states is not None:
            mixed_NK = self.fusion(mixed_NK, self.ddsr(normed_NK, segments.states), normed_NK)
        update_NK: Tensor = self.output(self.dropout(self.norm_out(mixed_NK) * F.silu(u_NK)))
        return hidden_NK + update_NK


class Recommender(nn.Module):
    """Computes a query vector of length 1 for each token; an item's score is the cosine of query and item.

    Args:
        settings: section `model` of params.yaml.
        items, domains: how many items and domains there are.
        shard: the rows of the item embedding that this process holds. The initial weights are the same with any shard.
    """

    def __init__(self, settings: ModelSettings, items: int, domains: int, shard: Shard = WHOLE) -> None:
        super().__init__()
        self.settings = settings
        self.domains = domains
        self.items, self.shard = items, shard
        self.item = _item_embedding(items, settings.width, shard)
        self.domain = nn.Embedding(domains, settings.width)
        self.tape = TransitionEncoding(settings.width) if settings.tape else None
        self.tape_domain = nn.Embedding(domains, settings.width) if settings.tape and not settings.tape_tied else None
        self.dropout = Dropout(settings.dropout)
        self.request_time = RequestTime(settings.width) if settings.request_time else None
        beside = settings.attention == "intra_and_full"
        self.target_state = TargetState(settings.width, settings.target_gate) if settings.target_state else None
        # The day of the last training interaction, in days since 1970; before training, a day after all others.
        self.trained_until: Tensor | None
        self.register_buffer("trained_until", torch.tensor(2**31) if settings.recent_weight else None)
        # With `neighbour_weight`, whoever trains or reads the model sets it.
        self.neighbours: Neighbours | None = None
        # What attends to all domains itself, beside or above what doesn't, has no DDSR.
        full = replace(settings, ddsr=settings.ddsr and settings.attention not in ("intra_full", "intra_and_full"))
        below = full if beside else settings
        self.layers = nn.ModuleList(Layer(part) for part in [*[below] * (settings.layers - 1), full])
        self.intra_layers = nn.ModuleList(Layer(settings) for _ in range(settings.layers if beside else 0))
        _draw_rows(self.item.weight, items, shard)
        for embedding in (self.domain, self.tape_domain):
            if embedding is not None:
                nn.init.normal_(embedding.weight, std=EMBEDDING_STD)

    def kernel(self, device: torch.device, train: bool = False) -> Kernel:
        """The kernel of attention: in training the one that `model.kernel` selects, else the device's fastest.

        Raises:
            TapestryError: the kernel that `model.kernel` selects can't run there.
        """
        settings = self.settings
        wanted = settings.kernel if train else "auto"
        return choose_kernel(wanted, device, settings.width // settings.heads)

    def arrange(self, batch: Batch, kernel: Kernel) -> Segments:
        """The order in which this network computes `batch`, which must be on the CPU."""
        settings = self.settings
        heads, domains, ddsr, state = settings.heads, self.domains, settings.ddsr, settings.target_state
        if settings.attention in ("intra", "full"):
            return arrange(batch, kernel, heads, domains, settings.attention == "intra", ddsr, state)
        has_intra = settings.layers > 1 or settings.attention == "intra_and_full"
        intra = arrange(batch, kernel, heads, domains, True, ddsr, False) if has_intra else None
        return replace(arrange(batch, kernel, heads, domains, False, False, state), intra=intra)

    def forward(
        self, batch: Batch, segments: Segments, table_UK: Tensor | None = None, requests: Requests | None = None
    ) -> Tensor:
        """Queries of length 1, each of a token for its given target domain and a time.

        Args:
            batch: the tokens, in the batch's order.
            segments: what `arrange` made of this batch.
            table_UK: item embeddings, of which `batch.item_N` are rows; by default the whole item embedding.
            requests: the queries wanted; by default one of each token, for the domain and the time of its target.

        Returns:
            (R, K), in the order of `requests`; by default (N, K), in the order of `segments`.
        """
        hidden_NK, state_NK = self._hidden(batch, segments, table_UK)
        if requests is None:
            order_N, every_N = segments.order_N, torch.arange(len(hidden_NK), device=hidden_NK.device)
            requests = Requests(every_N, batch.target_domain_N[order_N], batch.target_time_N[order_N])
        query_RK = F.embedding(requests.token_R, hidden_NK)
        if self.target_state is not None and segments.last_ND is not None:
            query_RK = query_RK + self.target_state(state_NK, segments.last_ND[requests.token_R, requests.domain_R])
        if self.request_time is not None:
            query_RK = query_RK + self.request_time(requests.time_R)
        return F.normalize(query_RK, dim=-1)

    def _hidden(self, batch: Batch, segments: Segments, table_UK: Tensor | None) -> tuple[Tensor, Tensor]:
        """h of each token, and h as `target_state` reads it, (N, K) both, in the order of `segments`."""
        intra = segments if segments.intra is None else segments.intra
        embedded_NK = self.embed(batch, intra.order_N, table_UK)
        if self.intra_layers:
            state_NK = _through(self.intra_layers, self.dropout(embedded_NK), intra)
            moved_N = intra.inverse_N[segments.order_N]
            hidden_NK = self.dropout(F.embedding(moved_N, embedded_NK))
            return _through(self.layers, hidden_NK, segments), F.embedding(moved_N, state_NK)
        *below, last = self.layers
        hidden_NK = _through(below, self.dropout(embedded_NK), intra)
        if segments.intra is not None:
            hidden_NK = F.embedding(intra.inverse_N[segments.order_N], hidden_NK)
        hidden_NK = last(hidden_NK, segments)
        return hidden_NK, hidden_NK

    def embed(self, batch: Batch, order_N: Tensor, table_UK: Tensor | None = None) -> Tensor:
        """h⁰_i = E[x_i]·√K + M[d_i] + r_i for the tokens at `order_N`, (N, K)."""
        item_NK = F.embedding(batch.item_N[order_N], self.item.weight if table_UK is None else table_UK)
        # M[d_i] + r_i depends only on this domain and the next: a (D, D, K) table, and one look-up a token.
        pairs_DDK = self.domain.weight[:, None].expand(-1, self.domains, -1)
        if self.tape is not None:
            pairs_DDK = pairs_DDK + self.transitions()
        pair_N = (batch.domain_N * self.domains + batch.target_domain_N)[order_N]
        hidden_NK: Tensor = item_NK * self.settings.width**0.5 + F.embedding(pair_N, pairs_DDK.flatten(0, 1))
        return hidden_NK

    def transitions(self) -> Tensor:
        """TAPE's r for each pair of domains, this and the next, (D, D, K). The model must have TAPE."""
        assert self.tape is not None
        embedding = self.domain if self.tape_domain is None else self.tape_domain
        encoding_DDK: Tensor = self.tape(embedding.weight)
        return encoding_DDK

    @torch.no_grad()
    def tape_norm(self, batch: Batch) -> Tensor:
        """TAPE's |r_i| of each token, in the batch's order, (N,). Without TAPE: zeros."""
        if self.tape is None:
            return torch.zeros(len(batch.domain_N), device=batch.domain_N.device)
        norm_DD: Tensor = self.transitions().norm(dim=-1)
        return norm_DD[batch.domain_N, batch.target_domain_N]

    def hold_all_items(self, table_IK: Tensor) -> None:
        """Replace the shard of the item embedding by the whole of it."""
        self.item = nn.Embedding(len(table_IK), table_IK.shape[1], sparse=True, _weight=table_IK)
        self.shard = WHOLE

    def item_vectors(self, items: Tensor | slice) -> Tensor:
        """Vectors of the items in these rows of the item embedding, of length 1. (…, K)"""
        return F.normalize(self.item.weight[items], dim=-1)


def _through(layers: Iterable[nn.Module], hidden_NK: Tensor, segments: Segments) -> Tensor:
    for layer in layers:
        hidden_NK = layer(hidden_NK, segments)
    return hidden_NK


def _item_embedding(items: int, width: int, shard: Shard) -> nn.Embedding:
    """An embedding of a shard of all items. Its gradient holds only the rows that are read."""
    if shard == WHOLE:
        return nn.Embedding(items, width, sparse=True)
    weight = torch.empty(shard.size(items), width)
    embedding = nn.Embedding(len(weight), width, sparse=True, _weight=weight)
    _draw_rows(embedding.weight, items, shard)  # torch draws twice: here, and by the standard deviation wanted
    return embedding


@torch.no_grad()
def _draw_rows(table_IK: Tensor, items: int, shard: Shard) -> None:
    """Draw a shard of a table of normal values. Of whatever shard, the generator draws the whole table."""
    if shard == WHOLE:
        nn.init.normal_(table_IK, std=EMBEDDING_STD)
        return
    starts = range(0, items, _DRAWN)
    # torch draws 16 values at a time, and the last 16 of a tensor anew if its size is no multiple of 16. So only the
    # last block may have another size, and it isn't small.
    for start, end in zip(starts, [*starts[1:-1], items] if len(starts) > 1 else [items], strict=False):
        block_IK = torch.empty(end - start, table_IK.shape[1]).normal_(std=EMBEDDING_STD)
        table_IK[shard.local_slice(start, end)] = shard.of(block_IK, start)
