"""The catalogue: it translates item ids of the source to item numbers of a model, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from tapestry.core.arrays import Integers
from tapestry.core.arrow import to_numpy
from tapestry.core.errors import TapestryError, one_line, shown
from tapestry.model.settings import ModelSettings
from tapestry.sequences.reader import Domain, Sequences, domain_of_each_item
from tapestry.sequences.recent import RecentCounts


@dataclass(frozen=True)
class Catalogue:
    """The items that a model was trained on.

    item_id: (I,); an item's number is its index. domains: each has a slice of the item numbers. An id names one
    item, or one item of each domain if `sessionize.item_identity` is `domain`. recent: how often each was chosen, for a
    model with `recent_weight`.
    """

    item_id: npt.NDArray[np.object_]
    domains: tuple[Domain, ...]
    recent: RecentCounts | None = None

    def domain_number(self, name: str) -> int:
        """Return the number of a domain: its index in `domains`.

        Raises:
            TapestryError: no domain has this name; the message lists the names.
        """
        names = [domain.name for domain in self.domains]
        if name not in names:
            raise TapestryError(f"unknown domain {shown(name)}: the model knows {', '.join(map(one_line, names))}")
        return names.index(name)

    def numbers(self, item_ids: Sequence[str], domains: Sequence[str | None] | None = None) -> tuple[Integers, int]:
        """Return the numbers of a history's known items, in the same order, and how many unknown items it skipped.

        Args:
            domains: the domain of each item, None if not given. An item that is not in its given domain is unknown.

        Raises:
            TapestryError: an id names items of several domains, and its domain isn't given.
        """
        given = [None] * len(item_ids) if domains is None else domains
        found = [self._number(item_id, domain) for item_id, domain in zip(item_ids, given, strict=True)]
        known = [number for number in found if number is not None]
        return np.array(known, dtype=np.int64), len(found) - len(known)

    def domain_of(self, items: Integers) -> Integers:
        """Return the domain number of each item."""
        return np.searchsorted([domain.end for domain in self.domains], items, side="right").astype(np.int64)

    def _number(self, item_id: str, domain: str | None) -> int | None:
        numbers = [index[item_id] for index in self._index if item_id in index]
        if domain is not None:
            numbers = [number for number in numbers if self._domain_name(number) == domain]
        if len(numbers) > 1:
            names = ", ".join(one_line(self._domain_name(number)) for number in numbers)
            raise TapestryError(
                f"item {shown(item_id)} names an item in each of the domains {names}: give its domain, as in "
                '{"item_id": …, "domain": …}'
            )
        return numbers[0] if numbers else None

    def _domain_name(self, item: int) -> str:
        return self.domains[int(self.domain_of(np.array([item]))[0])].name

    @cached_property
    def _index(self) -> list[dict[str, int]]:
        """Number by id: one mapping of all items, or, if ids repeat, one mapping a domain."""
        whole = dict(zip(self.item_id.tolist(), range(len(self.item_id)), strict=True))
        if len(whole) == len(self.item_id):
            return [whole]
        return [
            dict(zip(self.item_id[d.start : d.end].tolist(), range(d.start, d.end), strict=True)) for d in self.domains
        ]


def catalogue_of(sequences: Sequences, settings: ModelSettings) -> Catalogue:
    """Return the catalogue of sequences for a model trained on them."""
    recent = sequences.known_counts if settings.recent_weight else None
    return Catalogue(sequences.item_id, sequences.domains, recent)


def read_catalogue(items: Path, domains: tuple[Domain, ...], recent: RecentCounts | None = None) -> Catalogue:
    """Read the items.parquet that sessionize wrote, for a model trained on `domains`.

    Raises:
        TapestryError: the file is missing or damaged, or its items differ from the model's.
    """
    try:
        table = pq.ParquetFile(items).read(columns=["item_id", "domain"])
        item_id, domain = to_numpy(table["item_id"]), to_numpy(table["domain"])
    except FileNotFoundError as error:
        raise TapestryError(f"{items}: no items; run `dvc repro sessionize`") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TapestryError(f"{items}: damaged ({one_line(str(error))}); run `dvc repro sessionize`") from error
    if not np.array_equal(domain, domain_of_each_item(domains)):
        raise TapestryError(
            f"{items}: {len(item_id)} items in {len(np.unique(domain))} domains, but the model was trained on "
            f"{domains[-1].end} items in {len(domains)} domains; run `dvc repro train`, or restore the model's data"
        )
    return Catalogue(item_id, domains, recent)
