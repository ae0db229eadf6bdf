"""A trained model's scores, and the ranks of targets by them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tapestry.data.batches import Batch, target_batches
from tapestry.data.sequences import Sequences
from tapestry.evaluation.ranking import Integers, Ranks, Score, rank_targets
from tapestry.model.network import Recommender
from tapestry.tensors import to_device


def last_queries(model: Recommender, batch: Batch) -> Tensor:
    """Query of the last token of each history, for its target domain, (B, K), on the model's device."""
    device = model.item.weight.device
    layout = model.arrange(batch, model.kernel(device))
    last_B = layout.inverse_N[batch.offsets_B1[1:] - 1].to(device)
    query_BK: Tensor = model(to_device(batch, device), to_device(layout, device))[last_B]
    return query_BK


def item_scores(model: Recommender, query_BK: Tensor, items: slice) -> Tensor:
    """Scores of the items by each query: cosines, (B, items)."""
    return query_BK @ model.item_vectors(items).T


@torch.inference_mode()
def rank_by_model(
    model: Recommender, sequences: Sequences, targets: Integers, exclude_seen: bool, batch_users: int
) -> Ranks:
    """Ranks of `targets` (indices of interactions) from the model's scores, in batches of users.

    Memory is that of one batch of histories and of one chunk of its scores, whatever the users and items.
    """
    device = model.item.weight.device
    model.eval()

    def chunks() -> Iterator[tuple[Integers, Score]]:
        for places, batch in target_batches(sequences, targets, model.config.window, batch_users):
            query_BK = last_queries(model, batch)
            row = np.empty(len(targets), dtype=np.int64)
            row[places] = np.arange(len(places))

            def score(wanted: Integers, items: slice) -> Tensor:
                return item_scores(model, query_BK[torch.from_numpy(row[wanted]).to(device)], items)  # noqa: B023

            yield places, score

    return rank_targets(sequences, targets, exclude_seen, chunks())
