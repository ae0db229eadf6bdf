"""HR@K, NDCG@K and MRR from ranks, with one relevant item a target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def ranking_metrics(rank: npt.NDArray[np.int64], ks: Sequence[int]) -> dict[str, float]:
    """Means over targets, as fractions of 1; {"n": 0} alone for no targets.

    HR@K: the target is among the first K. NDCG@K: 1 / log2(rank + 1) if it is (one relevant item, so the
    ideal gain is 1). MRR: 1 / rank over the whole ranking.
    """
    metrics: dict[str, float] = {"n": len(rank)}
    if len(rank) == 0:
        return metrics
    gain = 1 / np.log2(rank + 1.0)
    metrics |= {f"hr_{k}": float(np.mean(rank <= k)) for k in ks}
    metrics |= {f"ndcg_{k}": float(np.mean(np.where(rank <= k, gain, 0.0))) for k in ks}
    metrics["mrr"] = float(np.mean(1.0 / rank))
    return metrics
