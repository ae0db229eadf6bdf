"""Section `sessionize` of params.yaml: which interactions become sequences, and how they are split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tapestry.core.bounds import Count, Fraction, MemorySize, Threads, between, require


@dataclass(frozen=True)
class SessionizeSettings:
    """Which interactions become sequences, how they are ordered and split (`tapestry.sessionize.sessionize`)."""

    item_identity: Literal["global", "domain"]
    """`global`: an item id names one item in all domains. `domain`: each domain numbers its items by itself."""
    max_contested_share: Fraction
    """The stage stops if more than this share of a domain's interactions is of items that another domain owns."""
    min_user_interactions: Count
    """k-core: a user has at least so many interactions."""
    min_item_interactions: Count
    """k-core: an item has at least so many interactions."""
    min_domains: Annotated[int, between(1, 63)]
    """A user is active in at least so many domains."""
    max_length: Annotated[int, between(3, 10**6)]
    """Most recent interactions kept of a user. With `split: temporal`, of the training period alone."""
    split: Literal["leave_one_out", "temporal"]
    """`leave_one_out`: each user's last interaction is the test target, the one before it the validation target.
    `temporal`: two points in time separate training, validation and test for all users."""
    validation_share: Fraction
    """temporal: share of all interactions, by time, that the validation period has."""
    test_share: Fraction
    """temporal: share of all interactions, by time, that the test period has."""
    ties: Literal["hash", "row"]
    """Order of a user's interactions of one timestamp: `hash` of seed, user and item, or `row` of the raw file."""
    seed: Annotated[int, between(-(2**63), 2**63 - 1)]
    """Of the hash that orders ties."""
    engine: Literal["duckdb", "spark"]
    """What runs the SQL. Both give the same bytes; Spark is an optional extra, for data beyond one machine."""
    memory_limit: MemorySize
    """Memory of the process, about, such as 2GB. Larger work spills to a temporary folder."""
    threads: Threads
    """CPU threads. The result is the same for any number."""

    def __post_init__(self) -> None:
        if self.split == "leave_one_out":
            require(
                self.min_user_interactions >= 3,
                "sessionize.min_user_interactions: leave_one_out needs at least 3 (training, validation and test item)",
            )
        require(
            self.validation_share + self.test_share < 1,
            "sessionize: validation_share + test_share leaves nothing to train on",
        )
        if self.split == "temporal":
            for name in ("validation_share", "test_share"):
                require(
                    getattr(self, name) > 0,
                    f"sessionize.{name}: 0 leaves no {name.removesuffix('_share')} target; the temporal split needs "
                    "more, such as 0.1",
                )
