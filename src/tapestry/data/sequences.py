"""The sequences folder as flat arrays: what training and evaluation read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tapestry.errors import TapestryError

TRAIN, VALIDATION, TEST = 0, 1, 2


@dataclass(frozen=True)
class Domain:
    """A domain's name and its slice [start, end) of the item ids."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Sequences:
    """All users' interactions, user after user, each in time order.

    Per interaction (N): item, domain, timestamp (ms), split (TRAIN, VALIDATION, TEST).
    Per user (U): user_id; offsets has U + 1 entries. Per item (I): item_id, train_count.
    """

    item: npt.NDArray[np.int32]
    domain: npt.NDArray[np.int16]
    timestamp: npt.NDArray[np.int64]
    split: npt.NDArray[np.int8]
    offsets: npt.NDArray[np.int64]
    user_id: npt.NDArray[np.object_]
    item_id: npt.NDArray[np.object_]
    train_count: npt.NDArray[np.int64]
    domains: tuple[Domain, ...]

    @property
    def items(self) -> int:
        return len(self.item_id)

    @cached_property
    def owner(self) -> npt.NDArray[np.int64]:
        """The user of each interaction, (N,)."""
        return np.repeat(np.arange(len(self.user_id)), np.diff(self.offsets))

    def targets(self, split: int) -> npt.NDArray[np.int64]:
        """Indices of the interactions of `split` that have a history before them, ascending."""
        first = np.zeros(len(self.item), dtype=bool)
        first[self.offsets[:-1]] = True
        return np.flatnonzero((self.split == split) & ~first)


def read_sequences(folder: Path) -> Sequences:
    """Read what sessionize wrote.

    Raises:
        TapestryError: a file of the folder is missing.
    """
    import pyarrow.parquet as pq  # here, so that models train where pyarrow isn't installed

    try:
        rows = pq.read_table(folder / "sequences.parquet")
        users = pq.read_table(folder / "users.parquet")
        items = pq.read_table(folder / "items.parquet")
        domains = json.loads((folder / "domains.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TapestryError(f"{error.filename or folder}: no sequences; run `dvc repro sessionize`") from error
    return Sequences(
        item=rows["item"].to_numpy(),
        domain=rows["domain"].to_numpy(),
        timestamp=rows["timestamp"].to_numpy(),
        split=rows["split"].to_numpy(),
        offsets=np.append(users["offset"].to_numpy(), len(rows)),
        user_id=users["user_id"].to_numpy(),
        item_id=items["item_id"].to_numpy(),
        train_count=items["train_count"].to_numpy(),
        domains=tuple(Domain(**domain) for domain in domains),
    )
