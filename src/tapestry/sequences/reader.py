"""Read the files of sessionize as flat arrays, for training, evaluation and the baselines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tapestry.core.errors import TapestryError, one_line
from tapestry.core.settings import parse
from tapestry.core.splits import TRAIN, VALIDATION
from tapestry.sequences.recent import RecentCounts


@dataclass(frozen=True)
class Domain:
    """A domain: its name, and its items, which are those from start to end - 1."""

    name: str
    start: int
    end: int


def domain_of_each_item(domains: Sequence[Domain]) -> npt.NDArray[np.int64]:
    """Return the number of the domain of each item, (I,)."""
    return np.repeat(np.arange(len(domains)), [domain.end - domain.start for domain in domains])


@dataclass(frozen=True)
class Sequences:
    """The interactions of all users in flat arrays: user after user, each user's in time order.

    Of each interaction (N,): item, domain (numbers), timestamp (ms), split (TRAIN, VALIDATION or TEST).
    Of each user (U,): user_id. `offsets` (U + 1,): user u has the interactions from offsets[u] to offsets[u + 1] - 1.
    Of each item (I,): item_id, train_count (its training interactions).

    A user is a number u from 0, the row of users.parquet. user_id[u] is the text of the raw file, which evaluation
    writes to metrics/ranks.parquet. Items likewise.
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
        """The number of items."""
        return len(self.item_id)

    @cached_property
    def user(self) -> npt.NDArray[np.int64]:
        """The user of each interaction (N,). Its user_id is `user_id[user]`."""
        return np.repeat(np.arange(len(self.user_id)), np.diff(self.offsets))

    @cached_property
    def train_length(self) -> npt.NDArray[np.int64]:
        """The number of training interactions of each user (U,)."""
        return np.bincount(self.user[self.split == TRAIN], minlength=len(self.user_id))

    @cached_property
    def trained_items(self) -> tuple[npt.NDArray[np.int64], ...]:
        """The items of each domain that have a training interaction, ascending."""
        trained = self.train_count > 0
        return tuple(domain.start + np.flatnonzero(trained[domain.start : domain.end]) for domain in self.domains)

    @cached_property
    def known_counts(self) -> RecentCounts:
        """Counts of all interactions, of whatever split: of a request's time, those before it are known."""
        return RecentCounts(self.item, self.timestamp, self.items)

    @cached_property
    def training_counts(self) -> RecentCounts:
        """Counts of the training interactions alone."""
        training = self.split == TRAIN
        return RecentCounts(self.item[training], self.timestamp[training], self.items)

    def training_part(self) -> Sequences:
        """Return the same users with their training interactions alone, if others come between these; else itself.

        That is so where a target of one domain comes before training interactions of another.
        """
        training = self.split == TRAIN
        first_other = self.offsets[:-1] + self.train_length
        between = training & (np.arange(len(training)) >= first_other[self.user])
        if not between.any():
            return self
        return replace(
            self,
            item=self.item[training],
            domain=self.domain[training],
            timestamp=self.timestamp[training],
            split=self.split[training],
            offsets=np.append(0, np.cumsum(self.train_length)),
        )

    def with_validation_trained(self) -> Sequences:
        """Return the same interactions, with those of validation as training interactions."""
        split = np.where(self.split == VALIDATION, np.int8(TRAIN), self.split)
        train_count = np.bincount(self.item[split == TRAIN], minlength=self.items)
        return replace(self, split=split, train_count=train_count)

    def targets(self, split: int) -> npt.NDArray[np.int64]:
        """Return the indices of the interactions of `split` that have an earlier one of their user, ascending."""
        first = np.zeros(len(self.item), dtype=bool)
        first[self.offsets[:-1][np.diff(self.offsets) > 0]] = True
        return np.flatnonzero((self.split == split) & ~first)


def read_sequences(folder: Path) -> Sequences:
    """Read the folder that sessionize wrote.

    Raises:
        TapestryError: A file of the folder is missing or damaged, or the files contradict each other.
    """
    import pyarrow.parquet as pq  # not at the top: models also train in environments without pyarrow

    from tapestry.core.arrow import to_numpy

    def column(name: str, key: str, kind: Any) -> Any:
        try:
            values = to_numpy(tables[name][key])
        except TypeError as error:
            raise TypeError(f"{name}.parquet: {key}: {error}") from error
        if values.dtype != kind:
            raise TypeError(f"{name}.parquet: {key} is {values.dtype}, not {np.dtype(kind)}")
        return values

    try:
        tables = {  # read_table would load pyarrow's data sets, in as much time
            name: pq.ParquetFile(folder / f"{name}.parquet").read() for name in ("sequences", "users", "items")
        }
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
            f"{folder}: a file is damaged or from another version ({one_line(str(error))}); {_FIX}"
        ) from error
    if broken:
        raise TapestryError(f"{folder}: its files are from different runs: {broken}; {_FIX}")
    return sequences


_FIX = "remove the folder and run `dvc repro sessionize`"


def _contradiction(sequences: Sequences, user: npt.NDArray[np.int32], item_domain: npt.NDArray[np.int16]) -> str | None:
    """Return how two files contradict each other; None if they don't.

    `user` (N,) is the user of each interaction, `item_domain` (I,) the domain of each item.
    """
    names = [domain.name for domain in sequences.domains]
    ends = [0, *(domain.end for domain in sequences.domains)]
    if len(set(names)) < len(names) or any(d.start != end for d, end in zip(sequences.domains, ends, strict=False)):
        return "the item ranges in domains.json have gaps or overlap"
    if ends[-1] != sequences.items:
        return f"domains.json has {ends[-1]} items, items.parquet {sequences.items}"
    if not np.array_equal(item_domain, domain_of_each_item(sequences.domains)):
        return "domains.json and items.parquet have an item in different domains"
    lengths = np.diff(sequences.offsets)
    if sequences.offsets[0] != 0 or (lengths < 1).any() or not np.array_equal(user, sequences.user):
        return "the offsets in users.parquet are not where the users begin in sequences.parquet"
    if sequences.item.min() < 0 or sequences.item.max() >= sequences.items:
        return f"sequences.parquet has items outside the {sequences.items} of items.parquet"
    if not np.array_equal(item_domain[sequences.item], sequences.domain):
        return "sequences.parquet and items.parquet have an item in different domains"
    train_count = np.bincount(sequences.item[sequences.split == TRAIN], minlength=sequences.items)
    if not np.array_equal(train_count, sequences.train_count):
        return "train_count in items.parquet is not the number of training interactions in sequences.parquet"
    return None
