"""Between the ids of the source and the item numbers that a model knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tapestry.core.errors import TapestryError, one_line, shown
from tapestry.sequences.reader import Domain

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Catalogue:
    """The items that a model knows: item_id (I,), an item's number is its place; each domain has a slice of them.

    An id names one item, or, where each domain numbers its items by itself, one item of each domain.
    """

    item_id: npt.NDArray[np.object_]
    domains: tuple[Domain, ...]

    def domain_number(self, name: str) -> int:
        """The place of a domain.

        Raises:
            TapestryError: there is no such domain; the message lists those there are.
        """
        names = [domain.name for domain in self.domains]
        if name not in names:
            raise TapestryError(f"unknown domain {shown(name)}: the model knows {', '.join(map(one_line, names))}")
        return names.index(name)

    def numbers(self, item_ids: Sequence[str], domains: Sequence[str | None] | None = None) -> tuple[Integers, int]:
        """The numbers of a history's items, in its order, and how many items are unknown and left out.

        Args:
            domains: of each item, where it is known. An item that isn't of the domain given is unknown.

        Raises:
            TapestryError: an id is that of several domains' items, and its domain isn't given.
        """
        given = [None] * len(item_ids) if domains is None else domains
        found = [self._number(item_id, domain) for item_id, domain in zip(item_ids, given, strict=True)]
        known = [number for number in found if number is not None]
        return np.array(known, dtype=np.int64), len(found) - len(known)

    def domain_of(self, items: Integers) -> Integers:
        """The place of each item's domain."""
        return np.searchsorted([domain.end for domain in self.domains], items, side="right").astype(np.int64)

    def _number(self, item_id: str, domain: str | None) -> int | None:
        places = [index[item_id] for index in self._index if item_id in index]
        if domain is not None:
            places = [place for place in places if self._name(place) == domain]
        if len(places) > 1:
            names = ", ".join(one_line(self._name(place)) for place in places)
            raise TapestryError(f"item {shown(item_id)} is one of each of the domains {names}: say which is meant")
        return places[0] if places else None

    def _name(self, item: int) -> str:
        return self.domains[int(self.domain_of(np.array([item]))[0])].name

    @cached_property
    def _index(self) -> list[dict[str, int]]:
        """Number by id: of all items in one, or, where ids repeat, of each domain."""
        whole = dict(zip(self.item_id.tolist(), range(len(self.item_id)), strict=True))
        if len(whole) == len(self.item_id):
            return [whole]
        return [
            dict(zip(self.item_id[d.start : d.end].tolist(), range(d.start, d.end), strict=True)) for d in self.domains
        ]


def read_catalogue(items: Path, domains: tuple[Domain, ...]) -> Catalogue:
    """Read sessionize's items.parquet for a model of `domains`.

    Raises:
        TapestryError: it is missing or damaged, or has other items than the model.
    """
    import pyarrow.parquet as pq  # here, as in data/sequences.py

    try:
        table = pq.read_table(items, columns=["item_id", "domain"])
        item_id, domain = table["item_id"].to_numpy(), table["domain"].to_numpy()
    except FileNotFoundError as error:
        raise TapestryError(f"{items}: no items; run `dvc repro sessionize`") from error
    except (OSError, ValueError, KeyError) as error:
        raise TapestryError(f"{items}: damaged ({one_line(str(error))}); run `dvc repro sessionize`") from error
    if not np.array_equal(domain, np.repeat(np.arange(len(domains)), [d.end - d.start for d in domains])):
        raise TapestryError(
            f"{items}: {len(item_id)} items in {len(np.unique(domain))} domains, not those of the model, which knows "
            f"{domains[-1].end} in {len(domains)}; run `dvc repro train`, or restore the data that the model is of"
        )
    return Catalogue(item_id, domains)
