"""A few test targets with what the model recommended in their place, for people to look at."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapestry.core.arrays import Integers
from tapestry.evaluation.ranking import Ranks
from tapestry.model.network import Recommender
from tapestry.recommending.catalogue import catalogue_of
from tapestry.recommending.recommendations import request_of_target
from tapestry.recommending.top import top_items
from tapestry.sequences.reader import Sequences

_EXAMPLES = 4
_HISTORY = 6  # interactions shown, the most recent ones
_RECOMMENDED = 5


def example_recommendations(
    model: Recommender, sequences: Sequences, targets: Integers, ranks: Ranks, exclude_seen: bool
) -> list[dict[str, Any]]:
    """Recommend for a few targets that are evenly spread over all; they are not chosen by how well they went.

    A user's id stands for a person, so it is left out.

    Args:
        targets: indices of interactions. ranks: those of the targets.

    Returns:
        Of each example: `history`, its most recent interactions, oldest first, and `earlier`, how many came before
        them; `domain`, that of the target; `target`, the item chosen; `rank` and `candidates` as in `Ranks`;
        `recommended`, items best first. An item has `item_id` and `domain`.
    """
    chosen = np.unique((2 * np.arange(_EXAMPLES) + 1) * len(targets) // (2 * _EXAMPLES))
    catalogue = catalogue_of(sequences, model.settings)
    requests = [request_of_target(sequences, int(targets[index])) for index in chosen]

    def named(item: int) -> dict[str, str]:
        domain = int(catalogue.domain_of(np.array([item]))[0])
        return {"item_id": str(sequences.item_id[item]), "domain": sequences.domains[domain].name}

    return [
        {
            "history": [named(item) for item in request.history[-_HISTORY:].tolist()],
            "earlier": max(len(request.history) - _HISTORY, 0),
            "domain": sequences.domains[request.domain].name,
            "target": named(int(sequences.item[targets[index]])),
            "rank": int(ranks.rank[index]),
            "candidates": int(ranks.candidates[index]),
            "recommended": [named(item) for item in top.item.tolist()],
        }
        for index, (request, top) in zip(
            chosen, top_items(model, catalogue, requests, _RECOMMENDED, exclude_seen, _EXAMPLES), strict=True
        )
    ]
