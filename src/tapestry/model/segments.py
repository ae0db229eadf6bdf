"""The order in which the network computes a packed batch, and what each kernel needs to know of it.

Suffixes: N tokens of a batch, B histories, G segments, D domains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tapestry.model.kernels.domain_states import States, find_states
from tapestry.model.kernels.tiles import Tile, plan_tiles
from tapestry.sequences.batches import Batch

Kernel = Literal["reference", "tiled", "flex", "varlen"]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Segments:
    """The tokens of a batch, segment after segment, the shortest segment first.

    A segment is what attends to itself, in time order: one history's tokens of one domain where attention
    is within domains, else a whole history. So a mask over interleaved domains becomes causal attention in
    dense blocks, and no kernel computes what the mask would hide.

    order_N: the place in the batch of each token. inverse_N: the place here of each token of the batch.
    history_N, position_N: of each token. lengths_G: of the segments.
    """

    kernel: Kernel
    order_N: Tensor
    inverse_N: Tensor
    history_N: Tensor
    position_N: Tensor
    lengths_G: Integers
    states: States | None
    tiles: tuple[Tile, ...]

    @property
    def computed(self) -> int:
        """Positions that attention computes, padding included; all else computes the tokens alone."""
        match self.kernel:
            case "tiled":
                return sum(tile.count * tile.length for tile in self.tiles)
            case "reference":
                return (int(self.history_N.max()) + 1) * (int(self.position_N.max()) + 1)
            case _:
                return len(self.order_N)

    def segment_of_token(self) -> Tensor:
        """The segment of each token, (N,)."""
        lengths = torch.from_numpy(self.lengths_G).to(self.order_N.device)
        return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)


def arrange(batch: Batch, kernel: Kernel, heads: int, domains: int, intra: bool, states: bool) -> Segments:
    """The segments of a batch on the CPU. `states`: whether DDSR is to read it."""
    lengths_B = batch.offsets_B1.diff().numpy()
    history_N = np.repeat(np.arange(len(lengths_B)), lengths_B)
    domain_N, position_N = batch.domain_N.numpy(), batch.position_N.numpy()
    segment_N = history_N * domains + domain_N if intra else history_N
    count = np.bincount(segment_N)
    order_N = np.lexsort((segment_N, count[segment_N]))  # stable: time order stays inside a segment
    inverse_N = np.empty_like(order_N)
    inverse_N[order_N] = np.arange(len(order_N))
    lengths_G = np.sort(count[count > 0])
    position_N = position_N[order_N]
    return Segments(
        kernel=kernel,
        order_N=torch.from_numpy(order_N),
        inverse_N=torch.from_numpy(inverse_N),
        history_N=torch.from_numpy(history_N[order_N]),
        position_N=torch.from_numpy(position_N),
        lengths_G=lengths_G,
        states=find_states(domain_N, batch.position_N.numpy(), order_N, inverse_N, domains, heads) if states else None,
        tiles=plan_tiles(lengths_G, position_N, heads) if kernel == "tiled" else (),
    )
