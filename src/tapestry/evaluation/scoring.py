"""A trained model's scores, and the ranks of targets by them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tapestry.evaluation.ranking import Integers, Ranks, Score, rank_targets
from tapestry.model.network import Recommender
from tapestry.model.tensors import to_device
from tapestry.sequences.batches import Batch, target_batches
from tapestry.sequences.reader import Sequences


def last_queries(model: Recommender, batch: Batch) -> Tensor:
    """Query of the last token of each history, for its target domain, (B, K), on the model's device."""
    device = model.item.weight.device
    segments = model.arrange(batch, model.kernel(device))
    last_B = segments.inverse_N[batch.offsets_B1[1:] - 1].to(device)
    query_BK: Tensor = model(to_device(batch, device), to_device(segments, device))[last_B]
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
    model.eval()

    def chunks() -> Iterator[tuple[Integers, Score]]:
        for places, batch in target_batches(sequences, targets, model.settings.window, batch_users):
            query_BK = last_queries(model, batch)
            row = np.empty(len(targets), dtype=np.int64)
            row[places] = np.arange(len(places))
            yield places, partial(_scores_of, model, query_BK, row)

    return rank_targets(sequences, targets, exclude_seen, chunks())


def _scores_of(model: Recommender, query_BK: Tensor, row: Integers, wanted: Integers, items: slice) -> Tensor:
    """Scores of `items` for the targets `wanted`; the query of target t is at row[t] of `query_BK`."""
    rows = torch.from_numpy(row[wanted]).to(query_BK.device)
    return item_scores(model, query_BK[rows], items)
