"""The loss: sampled softmax over the items of the target's domain.

    loss = mean over tokens of −log( exp(s_t) / (exp(s_t) + Σ_c exp(s_c)) ),   s_u = cos(q, e_u) / τ

q is the token's query, t its target, c the candidates of the target's domain without the target itself, e_u an item's
embedding and τ the temperature. Tokens are grouped by their target's domain, whose candidates they share, so scores
are one matrix product a domain.

Suffixes: N tokens, K width, U rows of the table.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from tapestry.model.kernels.softmax import DomainTargets, softmax_loss


def domain_softmax_loss(
    query_NK: Tensor, table_UK: Tensor, targets: Sequence[DomainTargets], temperature: float
) -> Tensor:
    """Mean over tokens of −log softmax of the target among itself and the candidates of its domain; a scalar.

    Args:
        query_NK: queries of length 1.
        table_UK: item embeddings of any length; the loss normalises them.
        targets: the tokens by domain of their target; every token is in one of them.
        temperature: scores are cosines divided by it.
    """
    return softmax_loss(query_NK, F.normalize(table_UK, dim=-1), targets, temperature) / len(query_NK)
