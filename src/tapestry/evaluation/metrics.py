"""HR@K, NDCG@K and MRR from ranks. A target is the only relevant item of its ranking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tapestry.core.arrays import Integers


def ranking_metrics(rank: Integers, ks: Sequence[int]) -> dict[str, float]:
    """Return the number of targets `n` and means over targets, as fractions of 1; only {"n": 0} without targets.

    HR@K: 1 if rank ≤ K, else 0. NDCG@K: 1 / log2(rank + 1) if rank ≤ K, else 0 (the ideal gain is 1, because one
    item is relevant). MRR: 1 / rank, without a cut-off.

    Args:
        rank: (targets,), from 1.
        ks: the cut-offs K.
    """
    metrics: dict[str, float] = {"n": len(rank)}
    if len(rank) == 0:
        return metrics
    gain = 1 / np.log2(rank + 1.0)
    metrics |= {f"hr_{k}": float(np.mean(rank <= k)) for k in ks}
    metrics |= {f"ndcg_{k}": float(np.mean(np.where(rank <= k, gain, 0.0))) for k in ks}
    metrics["mrr"] = float(np.mean(1.0 / rank))
    return metrics
