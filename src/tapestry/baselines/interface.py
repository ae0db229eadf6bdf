"""What a baseline is: a class that learns from sequences, and scores items for requests.

A request is what is known when a target is to be ranked: the user, the history before it, the domain and the time. The
target's item is not among it. Which items compete, which are left out as seen, and what equal scores do is decided in
`tapestry.evaluation.ranking`, the same for the model and for every baseline.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tapestry.baselines.settings import BaselineSettings
from tapestry.core.arrays import Integers
from tapestry.core.splits import TEST
from tapestry.evaluation.ranking import ScoreFunction, seen_items
from tapestry.sequences.reader import Domain, Sequences


class Requests:
    """R requests, one for each target.

    Of each request (R,): `user` (its number in the sequences), `domain` (number), `time` (ms). `len()` is R.
    `sequences` and `targets` are for baselines that hand all histories to another program: request r's history ends
    before interaction targets[r], which is the one to be found.
    """

    def __init__(self, sequences: Sequences, targets: Integers) -> None:
        """
        Args:
            targets: indices of the interactions that are to be ranked.
        """
        self.user: Integers = sequences.user[targets]
        self.domain: npt.NDArray[np.int16] = sequences.domain[targets]
        self.time: Integers = sequences.timestamp[targets]
        self.sequences = sequences
        self.targets = targets
        self._catalogue = Domain("all", 0, sequences.items)

    def __len__(self) -> int:
        return len(self.targets)

    def history(self, request: int) -> tuple[npt.NDArray[np.int32], Integers]:
        """Return the items and the timestamps (ms) of the history of one request, the oldest first.

        A history is all that the user did before, also what belongs to validation or to the test.
        """
        end = self.targets[request]
        start = self.sequences.offsets[self.sequences.user[end]]
        return self.sequences.item[start:end], self.sequences.timestamp[start:end]

    def items(self, index: Integers) -> tuple[Integers, Integers]:
        """Return all items in the histories of the requests `index`, as (row of `index`, item), the oldest first."""
        return seen_items(self.sequences, self.targets[index], self._catalogue)


class Baseline(Protocol):
    """A baseline. A script `baselines/<name>.py` defines a class `Baseline` that has these two methods."""

    def fit(self, sequences: Sequences, settings: BaselineSettings) -> None:
        """Learn from sequences without the test interactions.

        Args:
            sequences: `split` is TRAIN (0) or VALIDATION (1) everywhere. Learn from the former; use the latter only
                to stop early.
            settings: with the seed and the number of threads.
        """

    def scorer(self, requests: Requests) -> ScoreFunction:
        """Return the function that scores items for requests: (indices into `requests`, slice of items) → scores.

        Scores are a NumPy array or a tensor (indices, items); the higher, the better. Those of items of one domain are
        compared.
        """


def without_test(sequences: Sequences) -> Sequences:
    """Return the sequences without their test interactions; users and items keep their numbers."""
    kept = sequences.split != TEST
    lengths = np.bincount(sequences.user[kept], minlength=len(sequences.user_id))
    columns = {name: getattr(sequences, name)[kept] for name in ("item", "domain", "timestamp", "split")}
    return replace(sequences, offsets=np.append(0, np.cumsum(lengths)), **columns)
