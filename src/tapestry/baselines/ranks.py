"""Fit a baseline, and rank targets by its scores."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from tapestry.baselines.interface import Baseline, Requests, without_test
from tapestry.baselines.settings import BaselineSettings
from tapestry.core.arrays import Integers
from tapestry.core.errors import TapestryError
from tapestry.evaluation.ranking import Ranks, ScoreFunction, Scores, rank_targets
from tapestry.sequences.reader import Sequences


def rank_baseline(
    name: str, baseline: Baseline, sequences: Sequences, targets: Integers, settings: BaselineSettings
) -> Ranks:
    """Fit a baseline on what is before the test, and rank `targets` (indices of interactions) by its scores.

    Args:
        name: of the baseline, for messages.

    Raises:
        TapestryError: the scores have a wrong shape.
    """
    baseline.fit(without_test(sequences), settings)
    score = baseline.scorer(Requests(sequences, targets))
    return rank_by_scores(name, score, sequences, targets, settings)


def rank_by_scores(
    name: str, score: ScoreFunction, sequences: Sequences, targets: Integers, settings: BaselineSettings
) -> Ranks:
    """Rank `targets` by a function that scores their requests, `settings.batch_users` at a time.

    Raises:
        TapestryError: the scores have a wrong shape.
    """

    def checked(index: Integers, items: slice) -> Scores:
        scores = score(index, items)
        scores = scores if hasattr(scores, "shape") else np.asarray(scores)
        wanted = (len(index), items.stop - items.start)
        if tuple(scores.shape) != wanted:
            found = tuple(scores.shape)
            raise TapestryError(f"{name}: the scores have the shape {found}, not (requests, items) = {wanted}")
        return scores

    def chunks() -> Iterator[tuple[Integers, ScoreFunction]]:
        order = np.argsort(sequences.timestamp[targets], kind="stable")  # so that requests of one day share a chunk
        starts = range(0, len(targets), settings.batch_users)
        for first in tqdm(starts, desc=name, unit="batch", leave=False, disable=None):
            yield order[first : first + settings.batch_users], checked

    return rank_targets(sequences, targets, settings.exclude_seen, chunks())
