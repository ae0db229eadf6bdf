"""Item embeddings to start training from, made of which items have the same users.

Two items that many users have in common start close to each other, also if they are of different domains. The
embedding factorises the positive pointwise mutual information (PPMI) of items:

    X_ui = 1 if user u has a training interaction with item i, else 0       n_u = Σ_i X_ui
    C    = Xᵀ diag(1 / log₂(2 + n_u)) X, without its diagonal               weighted number of common users
    P_ij = max(0, log(C_ij ΣC / (s_i s_j))),  s_i = Σ_j C_ij                PPMI
    P    ≈ U diag(σ) Vᵀ, of rank K;  row i of the embedding is U_i √σ, scaled to the length that random rows have

A user of many items says less about each pair, hence the weight. The factors are those of a randomised subspace
iteration (Halko, Martinsson, Tropp, arXiv 0909.4061).

The result has the same bits on every x86-64 CPU: sums over users are whole numbers or sequential, logarithms are
libm's, sparse products add row by row, and dense ones are torch's (see `tapestry.core.cpu`), not NumPy's.

Suffixes: I items, K width, R = K + _OVERSAMPLING columns of the subspace.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy import sparse, special
from torch import Tensor

from tapestry.core.top_k import best_of_each_row
from tapestry.sequences.cooccurrence import weighted_pairs
from tapestry.sequences.reader import Sequences

_NEIGHBOURS = 1000  # entries of P that a row keeps, the largest ones: bounds memory, whatever the users
_OVERSAMPLING = 10
_ITERATIONS = 4
_NOISE = 0.002  # standard deviation, so that items of the same users differ


def cooccurrence_embedding(sequences: Sequences, width: int, std: float, seed: int) -> Tensor:
    """Return item embeddings (I, K) in which items with the same users are close.

    Args:
        width: K; with fewer items than K, the columns beyond their number are noise.
        std: a row has the length std·√K, which random rows of this standard deviation have on average.
        seed: of the subspace's start and of the noise. An item without a common user with another one is noise of
            standard deviation `std`.
    """
    generator = np.random.default_rng([seed, 2])
    factor_IK = _factor(ppmi(sequences), width, generator).numpy()
    length_I1 = np.sqrt((factor_IK * factor_IK).sum(1, keepdims=True))
    alone_I1 = length_I1 == 0
    scaled_IK = factor_IK * (std * math.sqrt(width)) / np.where(alone_I1, 1.0, length_I1)
    noise_IK = generator.standard_normal((sequences.items, width)) * np.where(alone_I1, std, _NOISE)
    return torch.from_numpy(scaled_IK + noise_IK).float()


def ppmi(sequences: Sequences) -> Any:
    """Return P of this module's equations, a sparse matrix (I, I) in float64.

    A row keeps its `_NEIGHBOURS` largest entries, of equal ones those of the least item numbers.
    """
    total_I, pairs = weighted_pairs(sequences)  # s and C
    total = math.fsum(total_I)
    parts = []
    for item, other, common in pairs:
        ratio = common * total / (total_I[item] * total_I[other])
        above = ratio > 1
        # xlogy is libm's logarithm: NumPy's own depends on the width of the CPU's vectors.
        values = special.xlogy(1.0, ratio[above])
        parts.append(best_of_each_row(item[above], other[above], values, _NEIGHBOURS))
    item, other, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    matrix = sparse.csr_array((values, (item, other)), shape=(sequences.items, sequences.items))
    matrix.sort_indices()  # products add in this order
    return matrix


def _factor(matrix: Any, width: int, generator: np.random.Generator) -> Tensor:
    """Return U √σ of the largest singular values of a sparse matrix (I, I), as (I, K) in float64.

    The sign of each column is that of its sum, so that it doesn't depend on how the decomposition computes it.
    """
    items = matrix.shape[0]
    rank = min(width + _OVERSAMPLING, items)
    transposed = matrix.T.tocsr()
    basis_IR = torch.from_numpy(generator.standard_normal((items, rank)))
    for _ in range(_ITERATIONS):
        basis_IR = torch.linalg.qr(_product(matrix, basis_IR)).Q
        basis_IR = torch.linalg.qr(_product(transposed, basis_IR)).Q
    basis_IR = torch.linalg.qr(_product(matrix, basis_IR)).Q
    projected_RI = _product(transposed, basis_IR).T
    u_RR, sigma_R, _ = torch.linalg.svd(projected_RI, full_matrices=False)
    factor_IR = basis_IR @ (u_RR * torch.from_numpy(np.sqrt(sigma_R.numpy())))
    factor_IR = factor_IR * torch.where(factor_IR.sum(0) < 0, -1.0, 1.0)
    return torch.nn.functional.pad(factor_IR[:, :width], (0, max(0, width - rank)))


def _product(matrix: Any, dense: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(matrix @ dense.contiguous().numpy()))
