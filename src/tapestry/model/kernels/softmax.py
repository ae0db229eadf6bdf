"""The kernel of the sampled softmax loss: one matrix product a domain, and no tensor of all scores.

Shapes: queries (N, K), unit item vectors (U, K); a domain has T tokens whose target is of that domain, and C
candidates that these tokens share.

Forward, for a token with query q and target t, with e_u the unit vector of row u and τ the temperature:

    s_t = q · e_t / τ        s_c = q · e_c / τ,  or −∞ where candidate c is the target t (an "accidental hit")
    p   = softmax over { t } ∪ candidates
    loss = Σ over tokens of −log p_t

Backward, for dloss = 1:

    dq   = (Σ_c p_c e_c + (p_t − 1) e_t) / τ
    de_c = Σ over tokens of p_c q / τ
    de_t = Σ over tokens of (p_t − 1) q / τ

The forward pass computes the scores of a block of tokens, turns them into probabilities in place, and computes the
gradients from these at once. So neither scores nor probabilities are stored for the backward pass, which only
multiplies the gradients by dloss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tapestry.model.kernels.aten import embedding_backward

# Scores a block: 4 MiB in float32 stay in a CPU's cache; a GPU needs more work at a time.
_SCORES = {"cpu": 1 << 20, "cuda": 1 << 26}


@dataclass(frozen=True, eq=False)
class DomainTargets:
    """The tokens whose target is of one domain, and the candidates that they share.

    tokens_T: indices of the tokens, in the order of the queries. target_T: rows of their targets in the table.
    candidates_C: rows of the candidates in the table, each once. hit_token_M, hit_candidate_M: the M accidental
    hits: pairs of a token and a candidate that is its target, as indices into T (ascending) and into C. Such a
    candidate is no negative.

    Example: tokens with targets 7 and 9 and candidates [3, 9] have one accidental hit, hit_token_M = [1],
    hit_candidate_M = [1].
    """

    tokens_T: Tensor
    target_T: Tensor
    candidates_C: Tensor
    hit_token_M: Tensor
    hit_candidate_M: Tensor


def softmax_loss(query_NK: Tensor, unit_UK: Tensor, targets: Sequence[DomainTargets], temperature: float) -> Tensor:
    """Sum over tokens of −log softmax of the target among itself and the candidates of its domain; a scalar.

    Args:
        query_NK: queries.
        unit_UK: item vectors of length 1.
        targets: the tokens by domain of their target; every token is in one of them.
        temperature: scores are dot products divided by it.
    """
    total: Tensor = _SoftmaxLoss.apply(query_NK, unit_UK, targets, temperature)  # type: ignore[no-untyped-call]
    return total


def softmax_loss_reference(
    query_NK: Tensor, unit_UK: Tensor, targets: Sequence[DomainTargets], temperature: float
) -> Tensor:
    """`softmax_loss` in plain torch. It stores all scores of a domain, and autograd computes the gradients."""
    total = query_NK.new_zeros(())
    for domain in targets:
        query_TK = query_NK[domain.tokens_T]
        positive_T1 = (query_TK * unit_UK[domain.target_T]).sum(-1, keepdim=True)
        scores_TC = query_TK @ unit_UK[domain.candidates_C].T
        hit_TC = torch.zeros_like(scores_TC, dtype=torch.bool)
        hit_TC[domain.hit_token_M, domain.hit_candidate_M] = True
        scores_TC = scores_TC.masked_fill(hit_TC, float("-inf"))
        log_p_TC1 = torch.log_softmax(torch.cat([scores_TC, positive_T1], 1) / temperature, 1)
        total = total - log_p_TC1[:, -1].sum()
    return total


class _SoftmaxLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query_NK: Tensor, unit_UK: Tensor, targets: Sequence[DomainTargets], temperature: float
    ) -> Tensor:
        total = query_NK.new_zeros(())
        dquery_NK, dunit_UK = torch.empty_like(query_NK), torch.zeros_like(unit_UK)
        target_N = torch.cat([domain.target_T for domain in targets])
        dtarget_TK: list[Tensor] = []  # of each block, in the order of target_N
        for domain in targets:
            candidates_CK = unit_UK.index_select(0, domain.candidates_C)
            dcandidates_CK = torch.zeros_like(candidates_CK)
            size = max(1, _SCORES[query_NK.device.type] // (len(candidates_CK) + 1))
            starts = torch.arange(0, len(domain.tokens_T) + size, size, device=query_NK.device)
            hits = torch.searchsorted(domain.hit_token_M, starts).tolist()
            for block, (tokens_T, target_T) in enumerate(
                zip(domain.tokens_T.split(size), domain.target_T.split(size), strict=True)
            ):
                hit = slice(hits[block], hits[block + 1])
                query_TK = query_NK.index_select(0, tokens_T).div_(temperature)
                target_TK = unit_UK.index_select(0, target_T)
                scores_TC1 = query_NK.new_empty(len(tokens_T), len(candidates_CK) + 1)  # the target's is the last
                torch.mm(query_TK, candidates_CK.T, out=scores_TC1[:, :-1])
                scores_TC1[domain.hit_token_M[hit] - block * size, domain.hit_candidate_M[hit]] = float("-inf")
                positive_T = torch.sum(query_TK * target_TK, -1)
                scores_TC1[:, -1] = positive_T
                highest_T = scores_TC1.amax(1)
                p_TC1 = torch.softmax(scores_TC1, 1, out=scores_TC1)
                # log Σ exp is the highest score − log of its probability, which is never too small for a logarithm.
                total += (highest_T - p_TC1.amax(1).log_() - positive_T).sum()
                excess_T1 = p_TC1[:, -1:] - 1
                dquery_TK = torch.mm(p_TC1[:, :-1], candidates_CK).addcmul_(excess_T1, target_TK)
                dquery_NK[tokens_T] = dquery_TK.div_(temperature)
                dcandidates_CK.addmm_(p_TC1[:, :-1].T, query_TK)
                dtarget_TK.append(excess_T1 * query_TK)
            dunit_UK.index_copy_(0, domain.candidates_C, dcandidates_CK)
        dunit_UK += embedding_backward(torch.cat(dtarget_TK), target_N, len(unit_UK))
        ctx.save_for_backward(dquery_NK, dunit_UK)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        dquery_NK, dunit_UK = ctx.saved_tensors
        (dloss,) = grads
        return dquery_NK * dloss, dunit_UK * dloss, None, None
