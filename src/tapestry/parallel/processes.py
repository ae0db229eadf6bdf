"""The processes of a run, and what they tell each other. `torch.distributed` does the work.

A run in one process has the same code path: each operation then returns what it was given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from tapestry.core.arrays import Integers
from tapestry.core.errors import TapestryError
from tapestry.parallel.shard import Shard

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)  # for which a process waits for the others
_ROLL_CALL = timedelta(seconds=20)


@dataclass(frozen=True, eq=False)
class Processes:
    """This process, `rank` from 0, among `count`. All must call the same methods in the same order."""

    rank: int = 0
    count: int = 1
    timeout: timedelta = TIMEOUT
    roll: dist.ProcessGroup | None = None
    """A group of its own for the roll call, because a message that has timed out breaks its group."""

    @classmethod
    def of_group(cls, timeout: timedelta = TIMEOUT) -> Processes:
        """Return the processes of torch's process group, which is initialised."""
        roll = dist.new_group(backend="gloo", timeout=timeout)
        return cls(dist.get_rank(), dist.get_world_size(), timeout, roll)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    @property
    def shard(self) -> Shard:
        """The rows of the item table that this process holds."""
        return Shard(self.rank, self.count)

    def sum(self, value: float) -> float:
        """Return the sum of a number over the processes."""
        if self.count == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total)
        return float(total)

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return flag if self.count == 1 else self.sum(float(flag)) > 0

    def add(self, values: Tensor) -> Tensor:
        """Add a tensor up over the processes, in place, and return it."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def add_integers(self, values: Integers) -> Integers:
        """Add an array up over the processes, in place, and return it."""
        self.add(torch.from_numpy(values))
        return values

    def share(self, value: T) -> T:
        """Return the value of the first process."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, values: Tensor, source: int) -> Tensor:
        """Overwrite a tensor with that of process `source`, and return it."""
        if self.count > 1:
            dist.broadcast(values, source)
        return values

    def exchange(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """Send the first `sent[0]` rows to process 0, the next to process 1, and so on; return what comes from each.

        Args:
            rows: (sum of `sent`, …).
            received: how many rows come from each process.
        """
        arrived = rows.new_empty((sum(received), *rows.shape[1:]))
        dist.all_to_all_single(arrived, rows.contiguous(), list(received), list(sent))
        return arrived

    def exchange_counts(self, sent: Sequence[int]) -> list[int]:
        """Return how many rows each process will send to this one, given how many this one sends to each."""
        arrived = torch.empty(self.count, dtype=torch.int64)
        dist.all_to_all_single(arrived, torch.tensor(sent))
        counts: list[int] = arrived.tolist()
        return counts

    def gather_rows(self, local: Tensor, rows: int) -> Tensor | None:
        """Return a whole table of so many rows in the first process, from the shards of all; None in the others."""
        if self.count == 1:
            return local
        if not self.first:
            dist.send(local.contiguous(), 0)
            return None
        table = local.new_empty((rows, *local.shape[1:]))
        for rank in range(self.count):
            shard = Shard(rank, self.count)
            part = local if rank == 0 else local.new_empty((shard.size(rows), *local.shape[1:]))
            if rank:
                dist.recv(part, rank)
            shard.of(table).copy_(part)
        return table

    @contextmanager
    def naming_absent(self) -> Iterator[None]:
        """If a message in this context waits longer than the timeout, raise an error that names who did not answer.

        Raises:
            TapestryError: as said.
        """
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or "timed out" not in str(error).lower():
                raise
            absent = self._absent()
            raise TapestryError(f"waited {self.timeout.total_seconds():.0f} s in vain for {absent}") from error

    def _absent(self) -> str:
        """Return the ranks that do not answer a roll call."""
        try:
            dist.monitored_barrier(self.roll, timeout=_ROLL_CALL, wait_all_ranks=True)
        except RuntimeError as error:
            return f"a process: {str(error).splitlines()[0]}"
        return "a process that is slow, but answers now"


ALONE = Processes()
