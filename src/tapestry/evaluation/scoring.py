"""Ranks of targets by a trained model's scores."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tapestry.data.batches import target_batches
from tapestry.data.sequences import Sequences
from tapestry.evaluation.ranking import Integers, Ranks, Score, rank_targets
from tapestry.model.network import Recommender
from tapestry.tensors import to_device


@torch.inference_mode()
def rank_by_model(
    model: Recommender, sequences: Sequences, targets: Integers, exclude_seen: bool, batch_users: int
) -> Ranks:
    """Ranks of `targets` (indices of interactions) from the model's scores, in batches of users.

    Memory is that of one batch of histories and of one chunk of its scores, whatever the users and items.
    """
    device = model.item.weight.device
    kernel = model.kernel(device)
    model.eval()

    def chunks() -> Iterator[tuple[Integers, Score]]:
        for places, batch in target_batches(sequences, targets, model.config.window, batch_users):
            layout = model.arrange(batch, kernel)
            last_B = layout.inverse_N[batch.offsets_B1[1:] - 1].to(device)
            query_BK = model(to_device(batch, device), to_device(layout, device))[last_B]
            row = np.empty(len(targets), dtype=np.int64)
            row[places] = np.arange(len(places))

            def score(wanted: Integers, items: slice) -> Tensor:
                chosen: Tensor = query_BK[torch.from_numpy(row[wanted]).to(device)]  # noqa: B023
                return chosen @ model.item_vectors(items).T

            yield places, score

    return rank_targets(sequences, targets, exclude_seen, chunks())
