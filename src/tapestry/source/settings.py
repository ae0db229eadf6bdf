"""Sections `source` and `synthetic` of params.yaml: the source of the raw files, and the simulator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tapestry.core.bounds import Fraction, Seed, between, require
from tapestry.core.domains import check_domains
from tapestry.core.errors import shown


@dataclass(frozen=True)
class SourceSettings:
    """The source of the raw files: the simulator, a folder of the user, or a release of Amazon reviews."""

    release: Literal[
        "synthetic",
        "files",
        "amazon-2014",
        "amazon-2014-5core",
        "amazon-2018",
        "amazon-2018-5core",
        "amazon-2023",
        "amazon-2023-5core",
    ]
    """`synthetic`: the simulator. `files`: the folder `path`. All others are downloads (`tapestry.source.releases`)."""
    domains: tuple[str, ...]
    """Product categories, one raw file each; one is enough, with `sessionize.min_domains: 1`. Domains and items are
    numbered in this order."""
    path: str | None
    """Folder of the raw files, for the release `files`. A relative path starts at the checkout's root."""

    def __post_init__(self) -> None:
        check_domains(self.domains)
        require(
            self.path is None or "://" not in self.path,
            f"source.path: {shown(self.path)} is an address; stages read and write files. Copy or mount the raw "
            "files, and let a DVC remote hold what is made of them in an object store",
        )
        if self.release == "files":
            require(self.path is not None, "source.path: source.release 'files' needs the folder of the raw files")


@dataclass(frozen=True)
class SyntheticSettings:
    """The simulated users and items of `source.release: synthetic` (`tapestry.source.synthetic`)."""

    users: Annotated[int, between(1, 10**8)]
    """Number of users."""
    items: Annotated[int, between(1, 10**7)]
    """Number of items in each domain."""
    mean_length: Annotated[float, between(5, 10_000)]
    """Mean number of interactions of a user, which is 5 plus a geometric random number."""
    domain_skew: Annotated[float, between(0, 10)]
    """The share of domain k (k = 0, 1, …) of the interactions is proportional to (k + 1)^-domain_skew."""
    transition_strength: Fraction
    """0: the next domain is drawn from the shares. 1: the next domain is determined by the current one."""
    popularity_exponent: Annotated[float, between(0, 10)]
    """Zipf exponent of the popularity of the items with the same domain and interest."""
    interests: Annotated[int, between(1, 10_000)]
    """Number of latent interests, which all domains share. Each item belongs to one interest."""
    within_domain_effect: Fraction
    """Probability that an interaction's interest is determined by the user's last interaction in the same domain."""
    cross_domain_effect: Fraction
    """Probability that it is determined by the user's last interaction in another domain."""
    tie_probability: Fraction
    """Probability that an interaction is on the same day as the one before it."""
    seed: Seed
    """Seed of all random numbers of the simulator."""

    def __post_init__(self) -> None:
        require(
            self.users * self.mean_length <= 10**9,
            f"synthetic.users: {self.users} users of {self.mean_length} interactions (synthetic.mean_length) are above "
            "1,000,000,000 interactions",
        )
        require(
            self.items >= self.interests,
            f"synthetic.items: at least one item per interest is needed; {self.items} are fewer than "
            f"synthetic.interests: {self.interests}",
        )
        require(
            self.within_domain_effect + self.cross_domain_effect <= 1,
            "synthetic: within_domain_effect + cross_domain_effect is above 1; they are probabilities",
        )
