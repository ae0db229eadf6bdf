"""The sequences folder as flat arrays: what training and evaluation read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tapestry.core.errors import TapestryError, one_line
from tapestry.core.settings import parse
from tapestry.core.splits import TRAIN


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

    @cached_property
    def trained(self) -> npt.NDArray[np.int64]:
        """The number of training interactions of each user, (U,)."""
        return np.bincount(self.owner[self.split == TRAIN], minlength=len(self.user_id))

    def targets(self, split: int) -> npt.NDArray[np.int64]:
        """Indices of the interactions of `split` that have a history before them, ascending."""
        first = np.zeros(len(self.item), dtype=bool)
        first[self.offsets[:-1]] = True
        return np.flatnonzero((self.split == split) & ~first)


def read_sequences(folder: Path) -> Sequences:
    """Read what sessionize wrote.

    Raises:
        TapestryError: a file of the folder is missing or damaged, or the files aren't of one run.
    """
    import pyarrow.parquet as pq  # here, so that models train where pyarrow isn't installed

    def column(name: str, key: str, kind: Any) -> Any:
        values = tables[name][key].to_numpy()
        if values.dtype != kind:
            raise TypeError(f"{name}.parquet: {key} is {values.dtype}, not {np.dtype(kind)}")
        return values

    try:
        tables = {name: pq.read_table(folder / f"{name}.parquet") for name in ("sequences", "users", "items")}
        slices = json.loads((folder / "domains.json").read_text(encoding="utf-8"))
        sequences = Sequences(
            item=column("sequences", "item", np.int32),
            domain=column("sequences", "domain", np.int16),
            timestamp=column("sequences", "timestamp", np.int64),
            split=column("sequences", "split", np.int8),
            offsets=np.append(column("users", "offset", np.int64), len(tables["sequences"])),
            user_id=column("users", "user_id", object),
            item_id=column("items", "item_id", object),
            train_count=column("items", "train_count", np.int64),
            domains=tuple(parse(Domain, domain) for domain in slices),
        )
        broken = _contradiction(sequences, column("sequences", "user", np.int32), column("items", "domain", np.int16))
    except FileNotFoundError as error:
        raise TapestryError(f"{error.filename or folder}: no sequences; run `dvc repro sessionize`") from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError, TapestryError) as error:
        raise TapestryError(
            f"{folder}: a file is damaged or not of this version ({one_line(str(error))}); {_REPEAT}"
        ) from error
    if broken:
        raise TapestryError(f"{folder}: its files are not of one run: {broken}; {_REPEAT}")
    return sequences


_REPEAT = "remove the folder and run `dvc repro sessionize`"


def _contradiction(sequences: Sequences, user: npt.NDArray[np.int32], item_domain: npt.NDArray[np.int16]) -> str | None:
    """What one file says against another, or None. `user` is of each interaction, `item_domain` of each item."""
    names = [domain.name for domain in sequences.domains]
    ends = [0, *(domain.end for domain in sequences.domains)]
    if len(set(names)) < len(names) or any(d.start != end for d, end in zip(sequences.domains, ends, strict=False)):
        return "domains.json's slices of the items don't follow each other"
    if ends[-1] != sequences.items:
        return f"domains.json is of {ends[-1]} items, items.parquet has {sequences.items}"
    if not np.array_equal(item_domain, np.repeat(np.arange(len(names)), np.diff(ends))):
        return "domains.json and items.parquet have items in different domains"
    lengths = np.diff(sequences.offsets)
    if sequences.offsets[0] != 0 or (lengths < 1).any() or not np.array_equal(user, sequences.owner):
        return "users.parquet's offsets are not where sequences.parquet's users begin"
    if sequences.item.min() < 0 or sequences.item.max() >= sequences.items:
        return f"sequences.parquet has items outside the {sequences.items} of items.parquet"
    if not np.array_equal(item_domain[sequences.item], sequences.domain):
        return "sequences.parquet and items.parquet have items in different domains"
    trained = np.bincount(sequences.item[sequences.split == TRAIN], minlength=sequences.items)
    if not np.array_equal(trained, sequences.train_count):
        return "items.parquet's train_count is not what sequences.parquet's training interactions add up to"
    return None
