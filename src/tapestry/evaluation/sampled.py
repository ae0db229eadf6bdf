"""HR@K, NDCG@K and MRR among sampled negatives, as many papers report them, computed from full ranks without sampling.

A paper with this protocol ranks each target among n items that it draws at random from the target's domain, in place of
the whole domain. Of the C candidates of a full ranking, r − 1 rank above a target of rank r. The number X of them among
the n drawn ones (of C − 1, uniformly, without replacement) has the hypergeometric distribution

    P(X = x) = C(r−1, x) · C(C−r, n−x) / C(C−1, n)

and the target's rank among them is X + 1. So the expectation of each metric is known:

    HR@K   = Σ_{x<K} P(X = x)
    NDCG@K = Σ_{x<K} P(X = x) / log₂(x + 2)
    MRR    = Σ_x P(X = x) / (x + 1) = C / ((n+1) r) · (1 − C(C−r, n+1) / C(C, n+1))

A paper's own figure scatters around it with its draw. Sampled metrics may order models in another way than full
rankings do (Krichene and Rendle, "On Sampled Metrics for Item Recommendation", KDD 2020), so their names say what they
are: `hr_10_of_999` is HR@10 among the target and 999 sampled negatives.

Suffixes: P pairs of candidates and rank that differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tapestry.core.arrays import Floats, Integers


def sampled_metrics(rank: Integers, candidates: Integers, negatives: int, ks: Sequence[int]) -> dict[str, float]:
    """Return the means over targets of `sampled_values`; nothing without targets."""
    if len(rank) == 0:
        return {}
    return {name: float(np.mean(values)) for name, values in sampled_values(rank, candidates, negatives, ks).items()}


def sampled_values(rank: Integers, candidates: Integers, negatives: int, ks: Sequence[int]) -> dict[str, Floats]:
    """Return the expected metrics of each target, (targets,), with names such as `hr_10_of_999` and `mrr_of_999`.

    Args:
        rank: (targets,), from 1, in a full ranking.
        candidates: (targets,), the number of ranked items, the target included.
        negatives: n. A target with fewer other candidates is ranked among all of them.
        ks: the cut-offs K.
    """
    pairs_P2, pair = np.unique(np.stack([candidates, rank], axis=1), axis=0, return_inverse=True)
    expected = _expected(pairs_P2[:, 0], pairs_P2[:, 1], negatives, ks)
    return {f"{name}_of_{negatives}": values[pair.ravel()] for name, values in expected.items()}


def _expected(candidates_P: Integers, rank_P: Integers, negatives: int, ks: Sequence[int]) -> dict[str, Floats]:
    """Return the expectation of each metric, (P,)."""
    better_P, worse_P = rank_P - 1, candidates_P - rank_P
    drawn_P = np.minimum(negatives, candidates_P - 1)
    # X is at least this: with fewer worse items than draws, some of the better ones are drawn.
    x_P = np.maximum(drawn_P - worse_P, 0)
    probability_P = np.where(
        drawn_P <= worse_P,
        _all_within(better_P, candidates_P - 1 - drawn_P, candidates_P - 1),  # no better item is drawn
        _all_within(worse_P, drawn_P, candidates_P - 1),  # each worse item is drawn
    )
    none_P = _all_within(rank_P, candidates_P - 1 - drawn_P, candidates_P)
    mrr_P = candidates_P / ((drawn_P + 1) * rank_P) * (1 - none_P)
    hit_P, gain_P = np.zeros(len(rank_P)), np.zeros(len(rank_P))
    hr, ndcg = {}, {}
    for k in range(1, max(ks) + 1):
        here = x_P == k - 1
        hit_P[here] += probability_P[here]
        gain_P[here] += probability_P[here] / math.log2(k + 1)
        # To the next x: P(x + 1) / P(x), 0 where x is the largest possible one.
        ways = (better_P - x_P) * (drawn_P - x_P) / ((x_P + 1) * (worse_P - drawn_P + x_P + 1))
        probability_P = np.where(here, probability_P * ways, probability_P)
        x_P = x_P + here
        if k in ks:
            hit_P[drawn_P < k] = 1.0  # every rank is among the first K, whatever rounding left of the sum
            hr[f"hr_{k}"], ndcg[f"ndcg_{k}"] = hit_P.copy(), gain_P.copy()
    return hr | ndcg | {"mrr": mrr_P}


def _all_within(chosen_P: Integers, size_P: Integers, population_P: Integers) -> Floats:
    """Return the probability that `chosen` given items are all within a uniform sample of `size` of the `population`.

    It is the product of (size − j) / (population − j) over j < chosen. Products of one population are one cumulative
    product, from which each pair takes its entry.
    """
    result_P = np.empty(len(chosen_P))
    groups, group = np.unique(np.stack([size_P, population_P], axis=1), axis=0, return_inverse=True)
    for number, (size, population) in enumerate(groups.tolist()):
        inside = group.ravel() == number
        j = np.arange(chosen_P[inside].max(initial=0))
        product = np.cumprod(np.maximum(size - j, 0) / np.maximum(population - j, 1))
        result_P[inside] = np.append(1.0, product)[chosen_P[inside]]
    return result_P
