"""Sampled softmax over the target domain's items: one matrix product a domain, no tensor of all its scores.

The forward pass computes scores block by block, turns each block into probabilities in place and into gradients
at once, so neither scores nor probabilities are kept.

Suffixes: N tokens, K width, U rows of the table, T tokens of one target domain, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Scores a block: 4 MiB in float32 stay in a CPU's cache; a GPU wants more work at a time.
_SCORES = {"cpu": 1 << 20, "cuda": 1 << 26}


@dataclass(frozen=True, eq=False)
class DomainTargets:
    """The tokens whose target is of one domain, and the candidates that they share.

    tokens_T: places of the tokens. target_T: rows of their targets in the table. candidates_C: rows of the
    candidates, each once. hit_token, hit_candidate: where a candidate is the token's target, as indices into
    T, ascending, and into C; such a candidate is no negative.
    """

    tokens_T: Tensor
    target_T: Tensor
    candidates_C: Tensor
    hit_token: Tensor
    hit_candidate: Tensor


def domain_softmax_loss(
    query_NK: Tensor, table_UK: Tensor, targets: Sequence[DomainTargets], temperature: float
) -> Tensor:
    """Mean over tokens of −log softmax of the target among itself and the candidates of its domain.

    Scores are cosines / temperature; queries are of unit length already. Every token is in one of `targets`.
    """
    unit_UK = F.normalize(table_UK, dim=-1)
    total: Tensor = _SoftmaxLoss.apply(query_NK, unit_UK, targets, temperature)  # type: ignore[no-untyped-call]
    return total / len(query_NK)


class _SoftmaxLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query_NK: Tensor, unit_UK: Tensor, targets: Sequence[DomainTargets], temperature: float
    ) -> Tensor:
        total = query_NK.new_zeros(())
        grad_NK, grad_UK = torch.empty_like(query_NK), torch.zeros_like(unit_UK)
        target_N = torch.cat([domain.target_T for domain in targets])
        to_target = []
        for domain in targets:
            candidates_CK = unit_UK.index_select(0, domain.candidates_C)
            grad_CK = torch.zeros_like(candidates_CK)
            rows = max(1, _SCORES[query_NK.device.type] // (len(candidates_CK) + 1))
            starts = torch.arange(0, len(domain.tokens_T) + rows, rows, device=query_NK.device)
            hits = torch.searchsorted(domain.hit_token, starts).tolist()
            for block, (tokens, target) in enumerate(
                zip(domain.tokens_T.split(rows), domain.target_T.split(rows), strict=True)
            ):
                hit = slice(hits[block], hits[block + 1])
                query_TK = query_NK.index_select(0, tokens).div_(temperature)
                target_TK = unit_UK.index_select(0, target)
                scores = query_NK.new_empty(len(tokens), len(candidates_CK) + 1)
                torch.mm(query_TK, candidates_CK.T, out=scores[:, :-1])
                scores[domain.hit_token[hit] - block * rows, domain.hit_candidate[hit]] = float("-inf")
                positive_T = torch.sum(query_TK * target_TK, -1)
                scores[:, -1] = positive_T
                highest_T = scores.amax(1)
                p = torch.softmax(scores, 1, out=scores)
                # log Σ exp from the largest entry, whose probability is never too small for its logarithm.
                total += (highest_T - p.amax(1).log_() - positive_T).sum()
                excess_T1 = p[:, -1:] - 1
                grad_TK = torch.mm(p[:, :-1], candidates_CK).addcmul_(excess_T1, target_TK)
                grad_NK[tokens] = grad_TK.div_(temperature)
                grad_CK.addmm_(p[:, :-1].T, query_TK)
                to_target.append(excess_T1 * query_TK)
            grad_UK.index_copy_(0, domain.candidates_C, grad_CK)
        grad_UK += torch.ops.aten.embedding_dense_backward(torch.cat(to_target), target_N, len(unit_UK), -1, False)
        ctx.save_for_backward(grad_NK, grad_UK)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_NK, grad_UK = ctx.saved_tensors
        return grad_NK * grads[0], grad_UK * grads[0], None, None
