"""Section `sessionize` of params.yaml: which interactions become sequences, and how they are split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tapestry.core.bounds import Count, Fraction, MemorySize, Threads, between, require


@dataclass(frozen=True)
class SessionizeSettings:
    """Which interactions become sequences, how they are ordered and split (`tapestry.sessionize.sessionize`)."""

    item_identity: Literal["global", "domain"]
    """`global`: an item_id names the same item in all domains. `domain`: each domain numbers its own items, so that an
    item_id of two domains names two items."""
    max_contested_share: Fraction
    """Fraction. The stage stops if more than this share of a domain's interactions is of items that another domain
    owns."""
    min_user_interactions: Count
    """k-core: the fewest interactions of a user."""
    min_item_interactions: Count
    """k-core: the fewest interactions of an item."""
    min_domains: Annotated[int, between(1, 63)]
    """k-core: the fewest domains in which a user has interactions."""
    max_length: Annotated[int, between(3, 10**6)]
    """Longest sequence: the most recent interactions of a user are kept. With `split: temporal` the limit applies to
    the interactions of the training period."""
    split: Literal["leave_one_out", "leave_one_out_by_domain", "temporal", "given"]
    """`leave_one_out`: each user's last interaction is the test target, the one before it the validation target.
    `leave_one_out_by_domain`: so in each domain in which a user has three interactions or more; a domain with fewer is
    training alone. Training then has interactions that come after the target of another domain.
    `temporal`: two points in time separate training, validation and test for all users. `given`: the column `split` of
    the raw files, as a paper published it."""
    validation_share: Fraction
    """Temporal split: fraction of all interactions in the validation period, just before the test period."""
    test_share: Fraction
    """Temporal split: fraction of all interactions in the test period, the last one."""
    ties: Literal["hash", "row"]
    """Order of a user's interactions with equal timestamps: by a `hash` of seed, user_id and item_id, or by the `row`
    of the raw file."""
    seed: Annotated[int, between(-(2**63), 2**63 - 1)]
    """Seed of the hash that orders ties."""
    engine: Literal["duckdb", "spark"]
    """Engine that runs the SQL. Both write the same bytes. Spark is an optional extra, for data too large for one
    machine."""
    memory_limit: MemorySize
    """Approximate memory of the process, such as 2GB. Larger data spills to a temporary folder."""
    threads: Threads
    """Number of CPU threads. It does not change the result."""
    contested_items: Literal["owner", "drop"] = "owner"
    """What becomes of an item_id with interactions in several domains (`item_identity: global`): the domain with most
    of them owns it, or the item is dropped from all."""
    min_user_domain_interactions: Count = 1
    """k-core: how many interactions of a user a domain needs, to count as one of the user's `min_domains`."""
    k_core: Literal["iterated", "once"] = "iterated"
    """`iterated`: users and items with too few interactions are filtered until there are none. `once`, as many papers
    do: users with fewer than `min_domains` domains, then items, then users, each counted once."""
    truncate: Literal["after", "before"] = "after"
    """Whether `max_length` applies after the k-core or before it. With `k_core: once`, before means between items and
    users, so that users are counted by what is left of their sequence."""
    order: Literal["time", "given"] = "time"
    """A user's interactions are in the order of their timestamps, or of the column `position` of the raw files."""

    def __post_init__(self) -> None:
        if self.split in ("leave_one_out", "leave_one_out_by_domain"):
            require(
                self.min_user_interactions >= 3,
                f"sessionize.min_user_interactions: {self.split} needs at least 3 (training, validation and test item)",
            )
        require(
            self.validation_share + self.test_share < 1,
            "sessionize: validation_share + test_share leaves nothing to train on",
        )
        if self.split == "temporal":
            for name, value in (("truncate", "after"), ("order", "time")):
                require(
                    getattr(self, name) == value,
                    f"sessionize.{name}: {getattr(self, name)} is for leave_one_out and given splits; the temporal "
                    f"split needs {value}",
                )
            for name in ("validation_share", "test_share"):
                require(
                    getattr(self, name) > 0,
                    f"sessionize.{name}: 0 leaves no {name.removesuffix('_share')} target; the temporal split needs "
                    "more, such as 0.1",
                )

    def require_domains(self, count: int) -> None:
        """Raise a TapestryError if `min_domains` is above the number of domains, so that no user could be kept."""
        require(
            self.min_domains <= count,
            f"sessionize.min_domains: {self.min_domains} is above {count}, the number of domains in source.domains, so "
            f"that no user would be kept; set it to {count} or less",
        )
