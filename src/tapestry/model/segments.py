"""Segments: the order in which the network computes the tokens of a packed batch.

A mask saves nothing when domains interleave: no block of the score matrix is empty. So tokens are sorted by segment
first, (history, domain) where attention is within domains. Attention is then causal attention over contiguous blocks,
and kernels don't compute what a mask would hide. Example, one history with domains A B A B and tokens 0 … 3:

    order in the batch      0 1 2 3   of domains A B A B
    order here              0 2 1 3   of domains A A B B: two segments of 2 tokens

The whole network computes in this order; `inverse_N` brings its output back to the order of the batch. With
`attention: intra_full` or `intra_and_full` the layers within domains have segments, and so an order, of their own.

Suffixes: N tokens of a batch, B histories, G segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tapestry.core.arrays import Integers
from tapestry.model.kernels.domain_states import Reads, States, find_reads, find_states, last_of_domains
from tapestry.model.kernels.tiles import Tile, plan_tiles
from tapestry.sequences.batches import Batch

Kernel = Literal["reference", "tiled", "triton"]


@dataclass(frozen=True, eq=False)
class Segments:
    """The tokens of a batch in segments, the shortest first, and what the kernels need to know about them.

    A segment is a set of tokens that attend to each other: a history's tokens of one domain where attention is within
    domains, else the whole history. Inside a segment tokens are in time order.

    kernel: the kernel that computes attention.
    order_N: index in the batch of each token. inverse_N: the inverse permutation, index here of the batch's tokens.
    history_N, position_N: of each token, in this order: its history, and its position in the whole history.
    start_N, end_N: of each token, the first token of its segment and the token after the last one.
    lengths_G: tokens of each segment, ascending.
    states: DDSR's states; None without DDSR.
    last_ND: the last token of each domain at or before each token of the same history; -1 where there is none. None
        for a network without `target_state`.
    tiles: the tiles of the kernel `tiled`; empty for the other kernels.
    intra: the segments of the layers within domains, in a network whose other layers attend to whole histories; else
        None.
    """

    kernel: Kernel
    order_N: Tensor
    inverse_N: Tensor
    history_N: Tensor
    position_N: Tensor
    start_N: Tensor
    end_N: Tensor
    lengths_G: Integers
    states: States | Reads | None
    last_ND: Tensor | None
    tiles: tuple[Tile, ...]
    intra: Segments | None = None

    @property
    def computed(self) -> int:
        """Positions that the last layer's attention computes, including padding. All else is of the N tokens only."""
        match self.kernel:
            case "tiled":
                return sum(tile.count * tile.length for tile in self.tiles)
            case "reference":
                return (int(self.history_N.max()) + 1) * (int(self.position_N.max()) + 1)
            case _:
                return len(self.order_N)


def arrange(
    batch: Batch, kernel: Kernel, heads: int, domains: int, intra: bool, ddsr: bool, target_state: bool = False
) -> Segments:
    """Sort the tokens of a batch into segments.

    Args:
        batch: on the CPU.
        kernel: the kernel that will compute attention.
        heads, domains: H and the number of domains.
        intra: whether attention is within domains.
        ddsr, target_state: whether the network has DDSR, or reads the state of the target's domain.
    """
    lengths_B = batch.offsets_B1.diff().numpy()
    history_N = np.repeat(np.arange(len(lengths_B)), lengths_B)
    domain_N, position_N = batch.domain_N.numpy(), batch.position_N.numpy()
    segment_N = history_N * domains + domain_N if intra else history_N
    count = np.bincount(segment_N)
    order_N = np.lexsort((segment_N, count[segment_N]))  # a stable sort: time order stays inside a segment
    inverse_N = np.empty_like(order_N)
    inverse_N[order_N] = np.arange(len(order_N))
    lengths_G = np.sort(count[count > 0])
    end_G = lengths_G.cumsum()
    sorted_position_N = position_N[order_N]
    last_ND = last_of_domains(domain_N, position_N, order_N, inverse_N, domains) if ddsr or target_state else None
    states: States | Reads | None = None
    if ddsr and last_ND is not None:
        if kernel == "triton":
            states = find_reads(last_ND, domain_N, position_N, batch.offsets_B1.numpy(), order_N, inverse_N)
        else:
            states = find_states(last_ND, heads)
    return Segments(
        kernel=kernel,
        order_N=torch.from_numpy(order_N),
        inverse_N=torch.from_numpy(inverse_N),
        history_N=torch.from_numpy(history_N[order_N]),
        position_N=torch.from_numpy(sorted_position_N),
        start_N=torch.from_numpy(np.repeat(end_G - lengths_G, lengths_G)),
        end_N=torch.from_numpy(np.repeat(end_G, lengths_G)),
        lengths_G=lengths_G,
        states=states,
        last_ND=torch.from_numpy(last_ND) if target_state and last_ND is not None else None,
        tiles=plan_tiles(lengths_G, sorted_position_N, heads) if kernel == "tiled" else (),
    )
