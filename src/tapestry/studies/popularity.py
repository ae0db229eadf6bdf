"""Popularity bias: which items are recommended, against which are consumed.

Suffixes: N targets, P recommendations (all targets' first K items), I items of a domain.
"""

from __future__ import annotations

import numpy as np

from tapestry.core.arrays import Floats, Integers
from tapestry.model.network import Recommender
from tapestry.recommending.catalogue import catalogue_of
from tapestry.recommending.recommendations import request_of_target
from tapestry.recommending.top import top_items
from tapestry.sequences.reader import Sequences

FIRST = 10  # K: as many items of each ranking count as recommended


def recommended_items(model: Recommender, sequences: Sequences, targets: Integers, batch_users: int) -> Integers:
    """Return the first `FIRST` items for each target, of its domain, without those of the user's history: (N, K).

    -1 where a domain has fewer items that the user hasn't seen.
    """
    found = np.full((len(targets), FIRST), -1)
    catalogue = catalogue_of(sequences, model.settings)
    requests = (request_of_target(sequences, int(target)) for target in targets)
    for row, (_, top) in enumerate(top_items(model, catalogue, requests, FIRST, True, batch_users)):
        found[row, : len(top.item)] = top.item
    return found


def popularity_figures(sequences: Sequences, targets: Integers, recommended_NK: Integers) -> dict[str, float]:
    """Compute how far recommendations lean towards popular items, as means over the domains with targets.

    coverage: share of the domain's trained items that are recommended to anyone. gini: of how often each trained item
    is recommended; 0 if all equally often, near 1 if all recommendations are of one item. recommended_popularity and
    consumed_popularity: mean percentile, by training interactions among the domain's trained items, of what is
    recommended and of the targets: 0 the rarest, 1 the most popular. `popularity_lift` is their difference.
    """
    rows = []
    for number, domain in enumerate(sequences.domains):
        inside = sequences.domain[targets] == number
        trained_I = sequences.trained_items[number]
        if not inside.any() or len(trained_I) < 2:
            continue
        percentile = np.zeros(domain.end - domain.start)
        percentile[trained_I - domain.start] = _percentiles(sequences.train_count[trained_I])
        items_P = recommended_NK[inside].ravel()
        items_P = items_P[items_P >= 0]
        times_I = np.bincount(items_P, minlength=sequences.items)[trained_I]
        consumed = percentile[sequences.item[targets[inside]].astype(np.int64) - domain.start].mean()
        lean = percentile[items_P - domain.start].mean()
        rows.append(
            {
                "coverage": float((times_I > 0).mean()),
                "gini": gini(times_I),
                "recommended_popularity": float(lean),
                "consumed_popularity": float(consumed),
                "popularity_lift": float(lean - consumed),
            }
        )
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def gini(count_I: Integers) -> float:
    """Compute the Gini coefficient of counts: Σ_i (2i − I − 1) x_i / (I Σ x), x ascending, i from 1; 0 if all are 0."""
    ascending, total = np.sort(count_I), int(count_I.sum())
    if total == 0:
        return 0.0
    rank = np.arange(1, len(ascending) + 1)
    return float(((2 * rank - len(ascending) - 1) * ascending).sum() / (len(ascending) * total))


def _percentiles(count_I: Integers) -> Floats:
    """Return of each item the share of other items with fewer interactions, those with as many counted half."""
    ascending = np.sort(count_I)
    fewer = np.searchsorted(ascending, count_I, side="left")
    as_many = np.searchsorted(ascending, count_I, side="right") - fewer - 1
    return (fewer + as_many / 2) / (len(count_I) - 1)
