"""The kernel of the sampled softmax loss: one matrix product a domain, and no tensor of all scores.

Shapes: queries (R, K), unit item vectors (U, K); a domain has T queries whose target is of that domain, and C
candidates that these queries share.

Forward, for a query q of weight w with target t, with e_u the unit vector of row u and τ the temperature:

    s_t = (q · e_t + o_t) / τ
    s_c = (q · e_c + o_c) / τ,  or −∞ where candidate c is no negative of the query (a "hit")
    p   = softmax over { t } ∪ candidates
    loss = Σ over queries of −w log p_t

o is a given number for each query and item, without a gradient; often 0.

Backward, for dloss = 1:

    dq   = w (Σ_c p_c e_c + (p_t − 1) e_t) / τ
    de_c = Σ over queries of w p_c q / τ
    de_t = Σ over queries of w (p_t − 1) q / τ

The forward pass computes the scores of a block of queries, turns them into probabilities in place, and computes the
gradients from these at once. So neither scores nor probabilities are stored for the backward pass, which only
multiplies the gradients by dloss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tapestry.model.device import no_row_written_twice
from tapestry.model.kernels.aten import embedding_backward

# Scores a block: 4 MiB in float32 stay in a CPU's cache; a GPU needs more work at a time.
_SCORES = {"cpu": 1 << 20, "cuda": 1 << 26}


@dataclass(frozen=True, eq=False)
class Offsets:
    """What scores add to the dot products.

    day_PC: to those of each candidate, on each of P days. row_T: the day of each query, a row of `day_PC`. target_T: to
    that of each query and its target.
    """

    day_PC: Tensor
    row_T: Tensor
    target_T: Tensor

    def divided(self, temperature: float, dtype: torch.dtype) -> Offsets:
        """Return them divided by the temperature, in the type of the scores."""
        day_PC, target_T = (x.to(dtype) / temperature for x in (self.day_PC, self.target_T))
        return Offsets(day_PC, self.row_T, target_T)


@dataclass(frozen=True, eq=False)
class DomainTargets:
    """The queries whose target is of one domain, and the candidates that they share.

    query_T: indices of the queries. target_T: rows of their targets in the table. candidates_C: rows of the candidates
    in the table, each once. hit_query_M, hit_candidate_M: the M hits: pairs of a query and a candidate that is no
    negative of it, as indices into T (ascending) and into C. That is the query's target (an "accidental hit"), and with
    `train.own_items_as_negatives: false` each item of its user. A query may have any number of hits, and a pair may
    come twice. offsets: what scores add; None if nothing.

    Example: queries with targets 7 and 9 and candidates [3, 9] have one accidental hit, hit_query_M = [1],
    hit_candidate_M = [1].
    """

    query_T: Tensor
    target_T: Tensor
    candidates_C: Tensor
    hit_query_M: Tensor
    hit_candidate_M: Tensor
    offsets: Offsets | None = field(default=None, kw_only=True)


def softmax_loss(
    query_RK: Tensor,
    unit_UK: Tensor,
    targets: Sequence[DomainTargets],
    temperature: float,
    weight_R: Tensor | None = None,
) -> Tensor:
    """Weighted sum of −log softmax of the target among itself and the candidates of its domain; a scalar.

    Args:
        query_RK: queries.
        unit_UK: item vectors of length 1.
        targets: the queries by domain of their target; every query is in one of them.
        temperature: scores are dot products and their offsets, divided by it.
        weight_R: weights of the queries, which get no gradient; by default 1.
    """
    total: Tensor = _SoftmaxLoss.apply(query_RK, unit_UK, targets, temperature, weight_R)  # type: ignore[no-untyped-call]
    return total


def softmax_loss_reference(
    query_RK: Tensor,
    unit_UK: Tensor,
    targets: Sequence[DomainTargets],
    temperature: float,
    weight_R: Tensor | None = None,
) -> Tensor:
    """`softmax_loss` in plain torch. It stores all scores of a domain, and autograd computes the gradients."""
    total = query_RK.new_zeros(())
    for domain in targets:
        query_TK = query_RK[domain.query_T]
        positive_T1 = (query_TK * unit_UK[domain.target_T]).sum(-1, keepdim=True)
        scores_TC = query_TK @ unit_UK[domain.candidates_C].T
        if domain.offsets is not None:
            positive_T1 = positive_T1 + domain.offsets.target_T[:, None]
            scores_TC = scores_TC + domain.offsets.day_PC[domain.offsets.row_T]
        hit_TC = torch.zeros_like(scores_TC, dtype=torch.bool)
        hit_TC[domain.hit_query_M, domain.hit_candidate_M] = True
        scores_TC = scores_TC.masked_fill(hit_TC, float("-inf"))
        log_p_TC1 = torch.log_softmax(torch.cat([scores_TC, positive_T1], 1) / temperature, 1)
        weight_T = 1.0 if weight_R is None else weight_R[domain.query_T]
        total = total - (weight_T * log_p_TC1[:, -1]).sum()
    return total


def _first_hits(domain: DomainTargets, size: int) -> list[int]:
    """The index of the first hit in each block of `size` queries, and their number at the end."""
    if len(domain.query_T) <= size:  # with one block, don't wait for the device
        return [0, len(domain.hit_query_M)]
    starts = torch.arange(0, len(domain.query_T) + size, size, device=domain.query_T.device)
    first: list[int] = torch.searchsorted(domain.hit_query_M, starts).tolist()
    return first


class _SoftmaxLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_RK: Tensor,
        unit_UK: Tensor,
        targets: Sequence[DomainTargets],
        temperature: float,
        weight_R: Tensor | None,
    ) -> Tensor:
        total = query_RK.new_zeros(())
        dquery_RK, dunit_UK = torch.empty_like(query_RK), torch.zeros_like(unit_UK)
        target_R = torch.cat([domain.target_T for domain in targets])
        dtarget_TK: list[Tensor] = []  # of each block, in the order of target_R
        for domain in targets:
            candidates_CK = unit_UK.index_select(0, domain.candidates_C)
            dcandidates_CK = torch.zeros_like(candidates_CK)
            size = max(1, _SCORES[query_RK.device.type] // (len(candidates_CK) + 1))
            hits = _first_hits(domain, size)
            offsets = None if domain.offsets is None else domain.offsets.divided(temperature, query_RK.dtype)
            for block, (index_T, target_T) in enumerate(
                zip(domain.query_T.split(size), domain.target_T.split(size), strict=True)
            ):
                hit = slice(hits[block], hits[block + 1])
                query_TK = query_RK.index_select(0, index_T).div_(temperature)
                target_TK = unit_UK.index_select(0, target_T)
                scores_TC1 = query_RK.new_empty(len(index_T), len(candidates_CK) + 1)  # the target's is the last
                positive_T = torch.sum(query_TK * target_TK, -1)
                if offsets is None:
                    torch.mm(query_TK, candidates_CK.T, out=scores_TC1[:, :-1])
                else:
                    here = slice(block * size, block * size + len(index_T))
                    offset_TC = offsets.day_PC.index_select(0, offsets.row_T[here])
                    torch.addmm(offset_TC, query_TK, candidates_CK.T, out=scores_TC1[:, :-1])
                    positive_T += offsets.target_T[here]
                hit_M = (domain.hit_query_M[hit] - block * size) * scores_TC1.shape[1] + domain.hit_candidate_M[hit]
                scores_TC1.view(-1).index_fill_(0, hit_M, float("-inf"))
                scores_TC1[:, -1] = positive_T
                highest_T = scores_TC1.amax(1)
                p_TC1 = torch.softmax(scores_TC1, 1, out=scores_TC1)
                # log Σ exp is the highest score − log of its probability, which is never too small for a logarithm.
                loss_T = highest_T - p_TC1.amax(1).log_() - positive_T
                if weight_R is None:
                    excess_T1 = p_TC1[:, -1:] - 1
                else:
                    weight_T = weight_R.index_select(0, index_T)
                    loss_T *= weight_T
                    p_TC1 *= weight_T[:, None]
                    excess_T1 = p_TC1[:, -1:] - weight_T[:, None]
                total += loss_T.sum()
                dquery_TK = torch.mm(p_TC1[:, :-1], candidates_CK).addcmul_(excess_T1, target_TK)
                with no_row_written_twice():
                    dquery_RK.index_copy_(0, index_T, dquery_TK.div_(temperature))
                dcandidates_CK.addmm_(p_TC1[:, :-1].T, query_TK)
                dtarget_TK.append(excess_T1 * query_TK)
            with no_row_written_twice():
                dunit_UK.index_copy_(0, domain.candidates_C, dcandidates_CK)
        dunit_UK += embedding_backward(torch.cat(dtarget_TK), target_R, len(unit_UK))
        ctx.save_for_backward(dquery_RK, dunit_UK)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        dquery_RK, dunit_UK = ctx.saved_tensors
        (dloss,) = grads
        return dquery_RK * dloss, dunit_UK * dloss, None, None, None
