"""A simulator of cross-domain shoppers with known truth, written in the layout of Amazon's 2018 reviews.

Letters of shapes: D domains, I interests, N interactions of all users, one user after another in time.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tapestry.core.atomic import atomic_file
from tapestry.source.settings import SyntheticSettings

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

DAY = 86_400  # seconds
MIN_LENGTH = 5  # interactions that every user has
PREFERENCE_CONCENTRATION = 0.2  # of the Dirichlet: a user cares for a few interests
MEAN_GAP = 14  # days between interactions that are not on the same day
RATING_SHARES = (0.06, 0.05, 0.09, 0.18, 0.62)  # of 1 to 5 stars


class Cause(IntEnum):
    """What an interaction's interest came from."""

    BASE = 0  # the user's own preference
    WITHIN = 1  # the user's last interaction in the same domain
    CROSS = 2  # the user's last interaction in another domain


@dataclass(frozen=True, eq=False)
class Structure:
    """The fixed world that the users live in."""

    successor: Ints
    """[D, I]: interest that follows interest i within domain d."""
    crossing: Ints
    """[D, D, I]: interest in the second domain that follows interest i in the first."""
    ranked_items: Ints
    """[D, items]: the item at slot rank * I + interest; rank 0 is the interest's most popular item."""


@dataclass(frozen=True, eq=False)
class Simulation:
    """All interactions, arrays [N], sorted by user, then in the order in which they happened."""

    user: Ints
    domain: Ints
    item: Ints  # number within its domain
    timestamp: Ints  # seconds since 1970, whole days
    rating: Ints  # 1 to 5
    interest: Ints  # of the item: latent
    cause: Ints  # a Cause


def domain_shares(settings: SyntheticSettings, domains_count: int) -> Floats:
    """[D]: share of each domain among the interactions, ~ (k + 1)^-domain_skew."""
    weights = np.arange(1, domains_count + 1, dtype=np.float64) ** -settings.domain_skew
    return np.asarray(weights / weights.sum())


def transition_matrix(settings: SyntheticSettings, domains_count: int) -> Floats:
    """[D, D]: probability of the next domain (column) given the last (row); the shares are stationary.

    With s = transition_strength it is (1 - s) * shares + s * M. M moves each domain's share to the domains
    in turn, shifted by one: a cycle where the shares are equal, and where they are not, the coupling of
    the shares with themselves that overlaps the two orders (the "north-west corner" rule).
    """
    shares = domain_shares(settings, domains_count)
    shifted = np.roll(np.arange(domains_count), -1)
    row, column = (np.concatenate([[0], np.cumsum(order)]) for order in (shares, shares[shifted]))
    overlap = np.minimum(row[1:, None], column[1:]) - np.maximum(row[:-1, None], column[:-1])
    mass = np.maximum(overlap, 0)
    # A share too small for the sum to tell has no overlap: its row is the shares.
    structured = np.tile(shares, (domains_count, 1))
    width = mass.sum(axis=1)
    structured[np.ix_(width > 0, shifted)] = mass[width > 0] / width[width > 0, None]
    strength = settings.transition_strength
    return np.asarray((1 - strength) * shares + strength * structured)


def structure(settings: SyntheticSettings, domains_count: int) -> Structure:
    """The planted permutations and each domain's items; a function of seed, D, interests and items only."""
    rng = _stream(settings, "structure")

    def permutations(rows: int, values: int) -> Ints:
        return rng.permuted(np.tile(np.arange(values), (rows, 1)), axis=1)

    return Structure(
        successor=permutations(domains_count, settings.interests),
        crossing=permutations(domains_count**2, settings.interests).reshape(domains_count, domains_count, -1),
        ranked_items=permutations(domains_count, settings.items),
    )


def simulate(settings: SyntheticSettings, domains_count: int) -> Simulation:
    """Simulate every user in every domain. Same `settings` and `domains_count`, same result.

    Each aspect has random numbers of its own, so that two configurations that differ in, say, the
    cross-domain effect share their users, domains and days.
    """
    world = structure(settings, domains_count)
    mean_extra = settings.mean_length - MIN_LENGTH
    extra = _stream(settings, "lengths").geometric(1 / (1 + mean_extra), settings.users) - 1
    lengths = MIN_LENGTH + extra
    domain, interest, cause = _walk(settings, world, lengths)
    return Simulation(
        user=np.repeat(np.arange(settings.users), lengths),
        domain=domain,
        item=_items(settings, world, domain, interest),
        timestamp=DAY * _days(settings, lengths),
        rating=_stream(settings, "ratings").choice(np.arange(1, 6), len(domain), p=RATING_SHARES),
        interest=interest,
        cause=cause,
    )


def write_domain(settings: SyntheticSettings, domains: tuple[str, ...], domain: str, path: Path) -> None:
    """Write the reviews of `domain`, one of `domains`, as gzipped JSON lines.

    Rows are grouped by item, as in Amazon's files, then sorted by time and user. Of `domains` only the
    number shapes the simulation, and the files of all of them are slices of one. Equal arguments give
    equal bytes.

    Raises:
        ValueError: `domain` is not one of `domains`.
    """
    number = domains.index(domain)
    simulation = simulate(settings, len(domains))
    rows = np.flatnonzero(simulation.domain == number)
    user, item, timestamp = simulation.user[rows], simulation.item[rows], simulation.timestamp[rows]
    order = np.lexsort((user, timestamp, item))
    columns = (user[order], item[order], timestamp[order], simulation.rating[rows][order])
    with (
        atomic_file(path) as temporary,
        temporary.open("wb") as file,
        # No name and no time in the header: they would make the bytes differ between runs.
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
    ):
        for values in zip(*(column.tolist() for column in columns), strict=True):
            packed.write(_review(number, *values).encode())


def _review(domain: int, user: int, item: int, timestamp: int, rating: int) -> str:
    day = datetime.fromtimestamp(timestamp, UTC)
    review = {
        "overall": float(rating),
        "verified": True,
        "reviewTime": f"{day:%m} {day.day}, {day.year}",
        "reviewerID": f"A{user:013}",
        "asin": f"S{domain:02}{item:07}",
        "reviewerName": "Simulated",
        "reviewText": "Simulated.",
        "summary": "Simulated",
        "unixReviewTime": timestamp,
    }
    return json.dumps(review) + "\n"


def _walk(settings: SyntheticSettings, world: Structure, lengths: Ints) -> tuple[Ints, Ints, Ints]:
    """Domain, interest and cause of every interaction, [N] each: all users take their t-th step at once."""
    D = len(world.successor)
    total, starts = int(lengths.sum()), np.cumsum(lengths) - lengths
    domain_draw, cause_draw, interest_draw = (
        _stream(settings, name).random(total) for name in ("domains", "causes", "interests")
    )
    concentration = np.full(settings.interests, PREFERENCE_CONCENTRATION)
    preferred = _cumulative(_stream(settings, "preferences").dirichlet(concentration, settings.users))
    # Row D stands for "none yet": a first interaction's domain is drawn from the shares.
    chain = _cumulative(np.vstack([transition_matrix(settings, D), domain_shares(settings, D)]))
    last = np.full(settings.users, D)  # domain of the user's last interaction
    other = np.full(settings.users, D)  # most recent domain that is not `last`
    recent = np.full((settings.users, D + 1), -1)  # interest of the user's last interaction by domain

    domain, interest, cause = (np.empty(total, dtype=np.int64) for _ in range(3))
    for step in range(int(lengths.max())):
        who = np.flatnonzero(lengths > step)
        at = starts[who] + step
        here = _draw(chain[last[who]], domain_draw[at])
        elsewhere = np.where(here != last[who], last[who], other[who])
        before_here, before_elsewhere = recent[who, here], recent[who, elsewhere]
        draw = cause_draw[at] - settings.within_domain_effect
        within = (draw < 0) & (before_here >= 0)
        cross = (draw >= 0) & (draw < settings.cross_domain_effect) & (before_elsewhere >= 0)
        wanted = _draw(preferred[who], interest_draw[at])
        wanted[within] = world.successor[here[within], before_here[within]]
        wanted[cross] = world.crossing[elsewhere[cross], here[cross], before_elsewhere[cross]]

        domain[at], interest[at] = here, wanted
        cause[at] = np.where(within, Cause.WITHIN, np.where(cross, Cause.CROSS, Cause.BASE))
        last[who], other[who], recent[who, here] = here, elsewhere, wanted
    return domain, interest, cause


def _items(settings: SyntheticSettings, world: Structure, domain: Ints, interest: Ints) -> Ints:
    """An item of each interaction's domain and interest, [N], by its Zipf popularity among those."""
    draw = _stream(settings, "items").random(len(domain))
    choices = (settings.items - interest - 1) // settings.interests + 1
    weight = np.cumsum(np.arange(1, choices.max() + 1, dtype=np.float64) ** -settings.popularity_exponent)
    rank = np.searchsorted(weight, draw * weight[choices - 1], side="right")
    slot = np.minimum(rank, choices - 1) * settings.interests + interest
    return np.asarray(world.ranked_items[domain, slot])


def _days(settings: SyntheticSettings, lengths: Ints) -> Ints:
    """Day of each interaction since 1970, [N], never before the user's last nor after 2018.

    A user starts on a day of 2012 to 2016, or earlier with more active days than are left until 2019. Where
    the gaps would end past 2018, they shrink to fit; days that differ stay different.
    """
    rng, starts = _stream(settings, "days"), np.cumsum(lengths) - lengths
    first_day, last_start, last_day = (
        (datetime(*date, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).days
        for date in ((2012, 1, 1), (2016, 12, 31), (2018, 12, 31))
    )
    start = rng.integers(first_day, last_start, settings.users, endpoint=True)
    total = int(lengths.sum())
    moves = (rng.random(total) >= settings.tie_probability).astype(np.int64)
    moves[starts] = 0
    extra = moves * (rng.geometric(1 / MEAN_GAP, total) - 1)

    def running(gaps: Ints) -> Ints:
        sums = np.cumsum(gaps)
        return np.asarray(sums - np.repeat(sums[starts] - gaps[starts], lengths))

    moved, waited = running(moves), running(extra)
    ends = starts + lengths - 1
    start = np.minimum(start, last_day - moved[ends])
    room, needed = (
        np.repeat(value, lengths) for value in (last_day - start - moved[ends], np.maximum(waited[ends], 1))
    )
    return np.repeat(start, lengths) + moved + np.where(needed > room, waited * room // needed, waited)


def _stream(settings: SyntheticSettings, name: str) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=tuple(name.encode())))


def _cumulative(probabilities: Floats) -> Floats:
    sums = np.cumsum(probabilities, axis=1)
    # Rounding must not leave a gap below 1 that a draw could fall into.
    return np.asarray(sums / sums[:, -1:])


def _draw(cumulative: Floats, uniform: Floats) -> Ints:
    """One column number a row, [n], from cumulative probabilities [n, K] and draws [n] in [0, 1)."""
    return np.asarray((uniform[:, None] >= cumulative).sum(axis=1))
