"""The loss: sampled softmax over the items of the target's domain.

    loss = 1/N Σ w · −log( exp(s_t) / (exp(s_t) + Σ_c exp(s_c)) ),   s_u = (cos(q, e_u) + o_u) / τ

The sum is over queries. q is the query, t its target, c the candidates of the target's domain without the target
itself (with `train.own_items_as_negatives: false`, without any item of the query's user), e_u an item's embedding, o_u
0 or, with `model.recent_weight`, that weight times log(1 + how often u was chosen in the 30 days before the request),
τ the temperature, N the number of tokens. A token has one query for the interaction that follows it, of weight w = 1,
and maybe others for auxiliary targets (`tapestry.training.auxiliary`). Queries are grouped by their target's domain,
whose candidates they share, so scores are one matrix product a domain.

Suffixes: R queries, K width, U rows of the table.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from tapestry.model.kernels.softmax import DomainTargets, softmax_loss


def domain_softmax_loss(
    query_RK: Tensor,
    table_UK: Tensor,
    targets: Sequence[DomainTargets],
    temperature: float,
    weight_R: Tensor | None = None,
    tokens: int | None = None,
) -> Tensor:
    """Sum over queries of −log softmax of the target among itself and the candidates of its domain, by `tokens`.

    Args:
        query_RK: queries of length 1.
        table_UK: item embeddings of any length; the loss normalises them.
        targets: the queries by domain of their target; every query is in one of them.
        temperature: scores are cosines divided by it.
        weight_R: weights of the queries; by default 1.
        tokens: N; by default the number of queries.

    Returns:
        A scalar.
    """
    total = softmax_loss(query_RK, F.normalize(table_UK, dim=-1), targets, temperature, weight_R)
    return total / (len(query_RK) if tokens is None else tokens)
