"""ALS: matrix factorisation by alternating least squares, trained by the library implicit (optional: `make peers`).

Source: Hu, Koren and Volinsky, Collaborative Filtering for Implicit Feedback Datasets, ICDM 2008.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from tapestry.baselines.interface import Requests
from tapestry.baselines.settings import BaselineSettings
from tapestry.core.arrays import Integers
from tapestry.core.errors import TapestryError
from tapestry.evaluation.ranking import ScoreFunction
from tapestry.sequences.cooccurrence import training_matrix
from tapestry.sequences.reader import Sequences

REGULARIZATION = 0.01  # implicit's default


class Als:
    """Users and items have vectors whose products approximate a matrix: 1 where a user has an item, else 0.

    With item vectors Y (I, K), the vector of a history h is the one of least squares: (YᵀY + λ)⁻¹ Σ y_i over the items
    i of h. It is computed anew for each request, so that also the newest items count.
    """

    def fit(self, sequences: Sequences, settings: BaselineSettings) -> None:
        """Train on the training interactions, with implicit's defaults for all that section `peers` doesn't hold.

        Raises:
            TapestryError: implicit isn't installed.
        """
        try:
            from implicit.cpu.als import AlternatingLeastSquares
            from threadpoolctl import threadpool_limits
        except ModuleNotFoundError as error:
            raise TapestryError("als: the package implicit isn't installed; run `make peers`") from error
        with threadpool_limits(1, "blas"):  # as implicit advises: its own threads are enough
            model: Any = AlternatingLeastSquares(
                factors=settings.peers.width,
                regularization=REGULARIZATION,
                alpha=1.0,
                use_cg=False,  # exact least squares
                iterations=settings.peers.epochs,
                num_threads=settings.threads,
                random_state=settings.peers.seed,
            )
            model.fit(sparse.csr_matrix(training_matrix(sequences), dtype=np.float32), show_progress=False)
        self.user_vectors: Any = np.asarray(model.user_factors, np.float64)
        self.item_vectors: Any = np.asarray(model.item_factors, np.float64)

    def scorer(self, requests: Requests) -> ScoreFunction:
        """Return the products of the histories' vectors and those of items."""
        items, width = self.item_vectors.shape
        gram = self.item_vectors.T @ self.item_vectors + REGULARIZATION * np.eye(width)
        solved = np.linalg.solve(gram, self.item_vectors.T).T

        def score(index: Integers, of: slice) -> npt.NDArray[np.float64]:
            row, item = np.unique(np.stack(requests.items(index)), axis=1)
            history = sparse.csr_array((np.ones(len(row)), (row, item)), shape=(len(index), items))
            scores: npt.NDArray[np.float64] = (history @ solved) @ self.item_vectors[of].T
            return scores

        return score
