"""Section `ingest` of params.yaml: which rows of a raw file are usable."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Annotated, Literal

from tapestry.core.bounds import Fraction, MemorySize, Threads, between, require


@dataclass(frozen=True)
class IngestSettings:
    """Which rows of a raw file are usable, and what the stage may take of the machine."""

    max_quarantine_share: Fraction
    """The stage stops if more than this share of a file's rows is unusable."""
    first_year: Annotated[int, between(1970, 9998)]
    """First year (UTC) of a plausible timestamp."""
    last_year: Annotated[int, between(1970, 9998)]
    """Last year (UTC) of a plausible timestamp, included."""
    min_rating: Annotated[float, between(-1e9, 1e9)]
    """Least plausible rating, on the file's own scale; Amazon's is 1 to 5."""
    max_rating: Annotated[float, between(-1e9, 1e9)]
    """Greatest plausible rating."""
    memory_limit: MemorySize
    """Memory of the process, about, such as 2GB. Larger work spills to a temporary folder."""
    threads: Threads
    """CPU threads. The result is the same for any number."""
    given_columns: tuple[Literal["position", "split"], ...] = ()
    """Columns of the raw files that sessionize takes as they are: `position`, a whole number that orders a user's
    interactions over all domains (`sessionize.order: given`), and `split`, which is train, validation (or valid, val)
    or test (`sessionize.split: given`)."""

    def __post_init__(self) -> None:
        require(self.first_year <= self.last_year, "ingest.first_year: must not be after ingest.last_year")
        require(
            len(set(self.given_columns)) == len(self.given_columns), "ingest.given_columns: a column is named twice"
        )
        require(self.min_rating <= self.max_rating, "ingest.min_rating: must not be above ingest.max_rating")

    def time_range(self) -> tuple[int, int]:
        """Plausible timestamps as [first, last) in milliseconds since 1970 UTC."""
        first, last = (
            datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (self.first_year, self.last_year + 1)
        )
        return int(first.timestamp()) * 1000, int(last.timestamp()) * 1000
