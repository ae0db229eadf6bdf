"""Sampled softmax over the target domain's items, one matrix product a domain."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tapestry.data.sequences import Domain
from tapestry.model.network import Recommender


def domain_softmax_loss(
    model: Recommender,
    query_NK: Tensor,
    target_N: Tensor,
    target_domain_N: Tensor,
    domains: Sequence[Domain],
    negatives: int | None,
    temperature: float,
    generator: torch.Generator,
) -> Tensor:
    """Mean over tokens of −log softmax of the target among itself and negatives of its own domain.

    Negatives are drawn uniformly, with replacement, once a domain, and shared by its tokens; where one
    is the token's target it is masked. With `negatives` None, or no fewer than the domain has items, the
    softmax is over the whole domain. `generator` is a CPU generator. Scores are cosines / temperature.
    """
    total = query_NK.new_zeros(())
    for index, domain in enumerate(domains):
        tokens = (target_domain_N == index).nonzero().squeeze(1)
        if len(tokens) == 0:
            continue
        query = query_NK[tokens] / temperature
        target = target_N[tokens]
        if negatives is None or negatives >= domain.end - domain.start:
            logits = query @ model.item_vectors(slice(domain.start, domain.end)).T
            positive = logits.gather(1, (target - domain.start)[:, None]).squeeze(1)
        else:
            sampled = torch.randint(domain.start, domain.end, (negatives,), generator=generator)
            sampled = sampled.to(target.device)
            positive = (query * model.item_vectors(target)).sum(-1)
            negative = query @ model.item_vectors(sampled).T
            negative = negative.masked_fill(sampled == target[:, None], float("-inf"))
            logits = torch.cat([positive[:, None], negative], dim=1)
        total = total + (torch.logsumexp(logits, dim=1) - positive).sum()
    return total / len(target_N)
