"""Which token holds the state of each domain at each token: DDSR's gather, and the same turned round.

Suffixes: N tokens, D domains, H heads, P places where a token's state is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class States:
    """A domain's state at a token is its last token there or before; a token's own domain has itself.

    last_DN: the token that holds the state, 0 where there is none. none_ND: where there is none.
    read_NHD: the same in the rows (token, query | key | value, head) of a projection.
    place_P: the flat places (token, domain, head) where states are read, those of one (token, head) together:
    its own end at place_ends_NH, which starts with 0. reader_P: the rows (token, head) that read there;
    reader_qkv_P: those in the rows (token, query | key | value, head).
    """

    last_DN: Tensor
    none_ND: Tensor
    read_NHD: Tensor
    place_P: Tensor
    place_ends_NH: Tensor
    reader_P: Tensor
    reader_qkv_P: Tensor


def find_states(
    domain_N: Integers, position_N: Integers, order_N: Integers, inverse_N: Integers, domains: int, heads: int
) -> States:
    """The states of packed histories, whose tokens are told by their places in `order_N`.

    Args:
        domain_N, position_N: of the tokens in time order, history after history.
    """
    index_N1, head_H = np.arange(len(domain_N))[:, None], np.arange(heads)
    last_ND = np.maximum.accumulate(np.where(domain_N[:, None] == np.arange(domains), index_N1, -1), axis=0)
    none_ND = (last_ND < index_N1 - position_N[:, None])[order_N]
    last_ND = np.where(none_ND, 0, inverse_N[last_ND[order_N]])
    flat = np.where(none_ND, -1, last_ND).ravel()
    place_P = np.argsort(flat, kind="stable")[np.count_nonzero(flat < 0) :]
    held_N = np.bincount(last_ND[~none_ND], minlength=len(domain_N))
    # From token by token to (token, head) by (token, head): each token's run of places once for each head.
    start_N = np.cumsum(held_N) - held_N
    within_P = np.arange(len(place_P)) - np.repeat(start_N, held_N)
    to_PH = (
        np.repeat(start_N * heads, held_N)[:, None] + np.repeat(held_N, held_N)[:, None] * head_H + within_P[:, None]
    )
    place_PH, reader_PH, reader_qkv_PH = (np.empty(to_PH.size, dtype=np.int64) for _ in range(3))
    place_PH[to_PH] = place_P[:, None] * heads + head_H
    reader_PH[to_PH] = (place_P // domains)[:, None] * heads + head_H
    reader_qkv_PH[to_PH] = (place_P // domains)[:, None] * (3 * heads) + head_H
    arrays = (
        np.ascontiguousarray(last_ND.T),
        none_ND,
        (last_ND[:, None] * (3 * heads) + head_H[:, None]).ravel(),
        place_PH,
        np.concatenate([[0], np.cumsum(np.repeat(held_N, heads))]),
        reader_PH,
        reader_qkv_PH,
    )
    return States(*(torch.from_numpy(array) for array in arrays))
