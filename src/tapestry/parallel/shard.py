"""Which rows of the item table a process holds: row i is dealt to process i mod P, as cards are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from tapestry.core.arrays import Integers

if TYPE_CHECKING:  # whoever ranks by arrays must not load torch
    from torch import Tensor

T = TypeVar("T", "Tensor", Integers)


@dataclass(frozen=True)
class Shard:
    """The rows index, index + count, index + 2 count, … of a table. By default, all of them.

    Rows are dealt, and not cut into blocks, because the items of a domain have consecutive numbers: every process then
    holds as many rows of each domain.

    Example: of 7 rows, the shard with index 1 of 3 holds the rows 1 and 4, as its local rows 0 and 1.
    """

    index: int = 0
    count: int = 1

    def size(self, rows: int) -> int:
        """Return how many of a table's rows it holds."""
        return len(range(self.index, rows, self.count))

    def local_slice(self, start: int, end: int) -> slice:
        """Return the local rows that are among the rows start to end - 1 of the table."""
        first, last = (-((self.index - bound) // self.count) for bound in (start, end))
        return slice(first, last)

    def rows(self, local: slice) -> range:
        """Return the rows of the table that these local rows are."""
        return range(local.start * self.count + self.index, local.stop * self.count + self.index, self.count)

    def numbers(self, local: slice) -> Integers:
        """Return the same as an array."""
        rows = self.rows(local)
        return np.arange(rows.start, rows.stop, rows.step)

    def holds(self, rows: T) -> T:
        """Return whether it holds each of these rows of the table."""
        mask: T = rows % self.count == self.index
        return mask

    def local(self, rows: T) -> T:
        """Return the local row of each of these rows of the table, which it holds."""
        local: T = rows // self.count
        return local

    def of(self, block: Tensor, start: int = 0) -> Tensor:
        """Return its rows of a block of the table that begins with row `start`; a view."""
        return block[(self.index - start) % self.count :: self.count]


WHOLE = Shard()
"""All rows, of a table that one process holds."""
