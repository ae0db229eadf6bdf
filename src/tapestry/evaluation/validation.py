"""Figures of the validation targets: those of every epoch's curve, and the one by which training stops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tapestry.core.arrays import Integers
from tapestry.core.validation_figure import ValidationFigure
from tapestry.evaluation.metrics import ranking_metrics
from tapestry.evaluation.ranking import Ranks
from tapestry.evaluation.sampled import sampled_metrics
from tapestry.sequences.reader import Sequences

KS = (1, 10, 100)


def validation_figures(
    sequences: Sequences, targets: Integers, ranks: Ranks, stop_by: str, ks: Sequence[int] = KS
) -> dict[str, float]:
    """Return `ranking_metrics` of the validation targets at some cut-offs, and the figure `stop_by` if it isn't there.

    With the prefix `domain_`, a figure is the mean over domains of the figure of the domain's targets. Each domain that
    has a target counts once, however many it has. With a suffix such as `_of_999`, targets are ranked among sampled
    negatives. A paper that stops by the sum over domains, such as ABXI (arXiv
    2501.15118) by the sum of MRR, orders epochs in the same way, because the number of domains is the same.

    Without targets, the result is only {"n": 0}.

    Args:
        targets: indices of interactions.
        ranks: one entry a target.
        stop_by: name of the figure (`train.stop_by`).
        ks: the cut-offs K of HR@K and NDCG@K.

    Raises:
        TapestryError: there is no figure of that name.
    """
    figures = ranking_metrics(ranks.rank, ks)
    if stop_by not in figures and len(targets) > 0:
        wanted = ValidationFigure.of_name(stop_by, "train.stop_by")
        figures[stop_by] = _figure(sequences, targets, ranks, wanted)
    return figures


def _figure(sequences: Sequences, targets: Integers, ranks: Ranks, wanted: ValidationFigure) -> float:
    """Compute one figure. There is at least one target."""
    ks = (wanted.k or 1,)

    def of(chosen: npt.NDArray[np.bool_]) -> float:
        rank, candidates = ranks.rank[chosen], ranks.candidates[chosen]
        if wanted.negatives is None:
            return ranking_metrics(rank, ks)[wanted.metric]
        return sampled_metrics(rank, candidates, wanted.negatives, ks)[f"{wanted.metric}_of_{wanted.negatives}"]

    if not wanted.by_domain:
        return of(np.ones(len(targets), dtype=bool))
    domain_of = sequences.domain[targets]
    return float(np.mean([of(domain_of == number) for number in np.unique(domain_of)]))
