"""Ranks of targets by a trained model's scores."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tapestry.data.batches import target_batches
from tapestry.data.sequences import Domain, Sequences
from tapestry.evaluation.ranking import Integers, Ranks, Score, rank_targets
from tapestry.model.network import Recommender


@torch.inference_mode()
def rank_by_model(
    model: Recommender, sequences: Sequences, targets: Integers, exclude_seen: bool, batch_users: int
) -> Ranks:
    """Ranks of `targets` (indices of interactions) from the model's scores, in batches of users."""
    device = model.item.weight.device
    model.eval()
    catalogue = [model.item_vectors(slice(domain.start, domain.end)) for domain in sequences.domains]

    def chunks() -> Iterator[tuple[Integers, Score]]:
        for places, batch in target_batches(sequences, targets, model.config.window, batch_users):
            last = batch.offsets_B1[1:] - 1
            query_BK = model(batch.to(device))[last.to(device)]
            row = np.empty(len(targets), dtype=np.int64)
            row[places] = np.arange(len(places))

            def score(wanted: Integers, index: int, _: Domain) -> Tensor:
                chosen: Tensor = query_BK[torch.from_numpy(row[wanted]).to(device)]  # noqa: B023
                return chosen @ catalogue[index].T

            yield places, score

    return rank_targets(sequences, targets, exclude_seen, chunks())
