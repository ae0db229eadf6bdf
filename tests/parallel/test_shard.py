"""The rows that each process holds."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tapestry.parallel.shard import Shard


@given(rows=st.integers(0, 40), count=st.integers(1, 6), bounds=st.tuples(st.integers(0, 40), st.integers(0, 40)))
def test_shards_are_every_nth_row(rows: int, count: int, bounds: tuple[int, int]) -> None:
    start, end = sorted(min(bound, rows) for bound in bounds)
    table = torch.arange(rows)
    for index in range(count):
        shard = Shard(index, count)
        mine = list(range(rows))[index::count]
        assert shard.of(table).tolist() == mine
        assert shard.of(table[start:end], start).tolist() == [row for row in mine if start <= row < end]
        assert shard.size(rows) == len(mine)
        assert mine[shard.local_slice(start, end)] == [row for row in mine if start <= row < end]
        assert np.flatnonzero(shard.holds(np.arange(rows))).tolist() == mine
        assert shard.local(np.array(mine, dtype=np.int64)).tolist() == list(range(len(mine)))
