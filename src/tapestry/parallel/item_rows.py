"""The rows of an item embedding that several processes hold, each its shard: read, and their gradients sent back.

A step of each process reads the rows of its own items. It asks their holders for them (`read`), and after the backward
pass it sends the gradients there (`collect_gradient`). A holder adds up what it gets for each of its rows, in the order
of the processes, so the sum is the same in every run. Two exchanges of the rows a step, and one of their numbers: the
traffic grows with the rows of a step, and not with the table. docs/decisions/sharding.md compares this with others.

Suffixes: K width, U rows that this process reads, V rows that it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tapestry.parallel.processes import Processes


@dataclass(frozen=True)
class Rows:
    """A tensor of a training's state that has a row for each item of this process's shard."""

    tensor: Tensor


class RowExchange:
    """Rows of a sharded table, for the steps of one process.

    Args:
        table: the shard of this process.
    """

    def __init__(self, table: Tensor, processes: Processes) -> None:
        self._table, self._processes = table, processes
        self._order_U = self._asked_V = torch.empty(0, dtype=torch.int64)
        self._sent: list[int] = []
        self._received: list[int] = []

    def read(self, touched_U: Tensor, catch_up: Callable[[Tensor], None] | None = None) -> Tensor:
        """Return rows of the whole table, (U, K). All processes must call it at the same time, if also for no rows.

        Args:
            touched_U: numbers of the items, each once.
            catch_up: if given, it is called with the local rows that are asked for, each once, before they are read.
        """
        processes = self._processes
        holder_U = touched_U % processes.count
        self._order_U = holder_U.argsort(stable=True)
        self._sent = holder_U.bincount(minlength=processes.count).tolist()
        self._received = processes.exchange_counts(self._sent)
        wanted_U = processes.shard.local(touched_U)[self._order_U]
        self._asked_V = processes.exchange(wanted_U, self._sent, self._received)
        if catch_up is not None:
            catch_up(self._asked_V.unique())
        values_VK = self._table.detach().index_select(0, self._asked_V)
        arrived_UK = processes.exchange(values_VK, self._received, self._sent)
        return torch.empty_like(arrived_UK).index_copy_(0, self._order_U, arrived_UK)

    def collect_gradient(self, gradient_UK: Tensor) -> None:
        """Set the gradient of the table's shard: sparse, of the rows that the last `read` was asked for.

        Args:
            gradient_UK: of the rows that `read` has returned; those of all processes are added up.
        """
        sent_UK = gradient_UK.index_select(0, self._order_U)
        gradient_VK = self._processes.exchange(sent_UK, self._sent, self._received)
        rows_1V = self._asked_V[None]
        self._table.grad = torch.sparse_coo_tensor(rows_1V, gradient_VK, self._table.shape, check_invariants=False)
