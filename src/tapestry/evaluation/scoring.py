"""Scores of items by a trained model, and the ranks of targets by these scores."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tapestry.evaluation.ranking import Integers, Ranks, ScoreFunction, rank_targets
from tapestry.model.network import Recommender
from tapestry.model.request_time import Requests
from tapestry.model.tensors import to_device
from tapestry.sequences.batches import Batch, target_batches
from tapestry.sequences.reader import Sequences


def last_queries(model: Recommender, batch: Batch) -> Tensor:
    """Compute the query of each history's last token for its target domain and time: (B, K), on the model's device."""
    device = model.item.weight.device
    segments = model.arrange(batch, model.kernel(device))
    last_B = batch.offsets_B1[1:] - 1
    requests = Requests(segments.inverse_N[last_B], batch.target_domain_N[last_B], batch.target_time_N[last_B])
    query_BK: Tensor = model(
        to_device(batch, device), to_device(segments, device), requests=to_device(requests, device)
    )
    return query_BK


def item_scores(model: Recommender, query_BK: Tensor, items: slice) -> Tensor:
    """Compute the cosines of queries (B, K) and `items`: (B, items)."""
    return query_BK @ model.item_vectors(items).T


@torch.inference_mode()
def rank_by_model(
    model: Recommender, sequences: Sequences, targets: Integers, exclude_seen: bool, batch_users: int
) -> Ranks:
    """Rank `targets` (indices of interactions) by the model's scores, `batch_users` histories at a time.

    Memory is bounded by a batch of histories and the scores of `rank_targets`, beside one number a target.
    """
    model.eval()

    def chunks() -> Iterator[tuple[Integers, ScoreFunction]]:
        for chunk, batch in target_batches(sequences, targets, model.settings.window, batch_users):
            query_BK = last_queries(model, batch)
            query_row = np.empty(len(targets), dtype=np.int64)
            query_row[chunk] = np.arange(len(chunk))
            yield chunk, partial(_scores_of, model, query_BK, query_row)

    return rank_targets(sequences, targets, exclude_seen, chunks())


def _scores_of(model: Recommender, query_BK: Tensor, query_row: Integers, index: Integers, items: slice) -> Tensor:
    """Compute scores of `items` for targets `index`; the query of target t is row query_row[t] of `query_BK`."""
    rows = torch.from_numpy(query_row[index]).to(query_BK.device)
    return item_scores(model, query_BK[rows], items)
