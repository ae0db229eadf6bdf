"""Simulator of cross-domain interactions with a known structure, written in the layout of Amazon's 2018 reviews.

Letters of shapes: D domains, I interests, N interactions of all users, sorted by user, then by time.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path

import numpy as np

from tapestry.core.arrays import Floats, Integers
from tapestry.core.atomic import atomic_file
from tapestry.source.settings import SyntheticSettings

DAY = 86_400  # seconds
MIN_LENGTH = 5  # interactions of every user, at least
PREFERENCE_CONCENTRATION = 0.2  # of the Dirichlet distribution: a user prefers a few interests
MEAN_GAP = 14  # mean number of days between interactions on different days
RATING_SHARES = (0.06, 0.05, 0.09, 0.18, 0.62)  # of 1 to 5 stars


class Cause(IntEnum):
    """What determined an interaction's interest."""

    BASE = 0  # the user's own preference
    WITHIN = 1  # the user's last interaction in the same domain
    CROSS = 2  # the user's last interaction in another domain


@dataclass(frozen=True, eq=False)
class Structure:
    """The fixed structure of the simulation, which is the same for all users."""

    successor: Integers
    """[D, I]: interest that follows interest i in domain d."""
    crossing: Integers
    """[D, D, I]: interest in the second domain that follows interest i in the first domain."""
    ranked_items: Integers
    """[D, items]: the item of each slot rank * I + interest; rank 0 is the most popular item of the interest."""


@dataclass(frozen=True, eq=False)
class Simulation:
    """All interactions as arrays [N], sorted by user, then by time."""

    user: Integers
    domain: Integers
    item: Integers  # number within its domain
    timestamp: Integers  # seconds since 1970, whole days
    rating: Integers  # 1 to 5
    interest: Integers  # of the item; latent, so not written to files
    cause: Integers  # value of Cause


def domain_shares(settings: SyntheticSettings, domains_count: int) -> Floats:
    """Return the share of each domain of the interactions, [D], proportional to (k + 1)^-domain_skew."""
    weights = np.arange(1, domains_count + 1, dtype=np.float64) ** -settings.domain_skew
    return np.asarray(weights / weights.sum())


def transition_matrix(settings: SyntheticSettings, domains_count: int) -> Floats:
    """Return the probability of the next domain (column) given the current one (row), [D, D].

    With s = transition_strength it is (1 - s) * shares + s * M. The shares are its stationary distribution. M moves the
    share of each domain to the next domain. If all shares are equal, M is a cycle. Otherwise M couples the shares with
    the shares shifted by one domain: both are laid out on [0, 1), and M is their overlap ("north-west corner" rule).
    """
    shares = domain_shares(settings, domains_count)
    shifted = np.roll(np.arange(domains_count), -1)
    row, column = (np.concatenate([[0], np.cumsum(order)]) for order in (shares, shares[shifted]))
    overlap = np.minimum(row[1:, None], column[1:]) - np.maximum(row[:-1, None], column[:-1])
    mass = np.maximum(overlap, 0)
    # A share below the rounding error of the sums has no overlap. Its row is the shares.
    structured = np.tile(shares, (domains_count, 1))
    width = mass.sum(axis=1)
    structured[np.ix_(width > 0, shifted)] = mass[width > 0] / width[width > 0, None]
    strength = settings.transition_strength
    return np.asarray((1 - strength) * shares + strength * structured)


def structure(settings: SyntheticSettings, domains_count: int) -> Structure:
    """Draw the structure. It depends only on the seed, D, and the numbers of interests and items."""
    rng = _stream(settings, "structure")

    def permutations(rows: int, values: int) -> Integers:
        return rng.permuted(np.tile(np.arange(values), (rows, 1)), axis=1)

    return Structure(
        successor=permutations(domains_count, settings.interests),
        crossing=permutations(domains_count**2, settings.interests).reshape(domains_count, domains_count, -1),
        ranked_items=permutations(domains_count, settings.items),
    )


def simulate(settings: SyntheticSettings, domains_count: int) -> Simulation:
    """Simulate the interactions of every user in every domain. Equal arguments give equal results.

    Each aspect has its own stream of random numbers. So two simulations that differ in, for example, the cross-domain
    effect have the same users, domains and days.
    """
    fixed = structure(settings, domains_count)
    mean_extra = settings.mean_length - MIN_LENGTH
    extra = _stream(settings, "lengths").geometric(1 / (1 + mean_extra), settings.users) - 1
    lengths = MIN_LENGTH + extra
    domain, interest, cause = _walk(settings, fixed, lengths)
    return Simulation(
        user=np.repeat(np.arange(settings.users), lengths),
        domain=domain,
        item=_items(settings, fixed, domain, interest),
        timestamp=DAY * _days(settings, lengths),
        rating=_stream(settings, "ratings").choice(np.arange(1, 6), len(domain), p=RATING_SHARES),
        interest=interest,
        cause=cause,
    )


def write_domain(settings: SyntheticSettings, domains: tuple[str, ...], domain: str, path: Path) -> None:
    """Write the reviews of `domain`, one of `domains`, as gzipped JSON lines.

    Rows are sorted by item, as in Amazon's files, then by time and user. The simulation depends only on the number of
    `domains`, and each domain's file is a part of the same simulation. Equal arguments give equal bytes.

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
        # A name or a time in the header would make the bytes differ between runs.
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


def _walk(settings: SyntheticSettings, fixed: Structure, lengths: Integers) -> tuple[Integers, Integers, Integers]:
    """Draw domain, interest and cause of every interaction, [N] each; step t draws interaction t of all users."""
    D = len(fixed.successor)
    total, starts = int(lengths.sum()), np.cumsum(lengths) - lengths
    domain_draw, cause_draw, interest_draw = (
        _stream(settings, name).random(total) for name in ("domains", "causes", "interests")
    )
    concentration = np.full(settings.interests, PREFERENCE_CONCENTRATION)
    preferred = _cumulative(_stream(settings, "preferences").dirichlet(concentration, settings.users))
    # Row D is for users without an interaction: the domain of the first one is drawn from the shares.
    chain = _cumulative(np.vstack([transition_matrix(settings, D), domain_shares(settings, D)]))
    last = np.full(settings.users, D)  # domain of the user's last interaction
    other = np.full(settings.users, D)  # most recent domain that is not `last`
    recent = np.full((settings.users, D + 1), -1)  # interest of the user's last interaction by domain

    domain, interest, cause = (np.empty(total, dtype=np.int64) for _ in range(3))
    for step in range(int(lengths.max())):
        users = np.flatnonzero(lengths > step)
        rows = starts[users] + step
        current = _draw(chain[last[users]], domain_draw[rows])
        previous = np.where(current != last[users], last[users], other[users])
        interest_current, interest_previous = recent[users, current], recent[users, previous]
        draw = cause_draw[rows] - settings.within_domain_effect
        within = (draw < 0) & (interest_current >= 0)
        cross = (draw >= 0) & (draw < settings.cross_domain_effect) & (interest_previous >= 0)
        drawn = _draw(preferred[users], interest_draw[rows])
        drawn[within] = fixed.successor[current[within], interest_current[within]]
        drawn[cross] = fixed.crossing[previous[cross], current[cross], interest_previous[cross]]

        domain[rows], interest[rows] = current, drawn
        cause[rows] = np.where(within, Cause.WITHIN, np.where(cross, Cause.CROSS, Cause.BASE))
        last[users], other[users], recent[users, current] = current, previous, drawn
    return domain, interest, cause


def _items(settings: SyntheticSettings, fixed: Structure, domain: Integers, interest: Integers) -> Integers:
    """Draw an item for each interaction, [N], among the items of its domain and interest, by their Zipf popularity."""
    draw = _stream(settings, "items").random(len(domain))
    choices = (settings.items - interest - 1) // settings.interests + 1
    weight = np.cumsum(np.arange(1, choices.max() + 1, dtype=np.float64) ** -settings.popularity_exponent)
    rank = np.searchsorted(weight, draw * weight[choices - 1], side="right")
    slot = np.minimum(rank, choices - 1) * settings.interests + interest
    return np.asarray(fixed.ranked_items[domain, slot])


def _days(settings: SyntheticSettings, lengths: Integers) -> Integers:
    """Draw the day of each interaction since 1970, [N], ascending for each user and not after 2018.

    A user starts on a day of 2012 to 2016, or earlier if the user has more active days than remain until 2019. If the
    gaps would end after 2018, they shrink to fit; different days stay different.
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

    def cumulative_by_user(gaps: Integers) -> Integers:
        sums = np.cumsum(gaps)
        return np.asarray(sums - np.repeat(sums[starts] - gaps[starts], lengths))

    active, gap = cumulative_by_user(moves), cumulative_by_user(extra)
    ends = starts + lengths - 1
    start = np.minimum(start, last_day - active[ends])
    room, needed = (np.repeat(value, lengths) for value in (last_day - start - active[ends], np.maximum(gap[ends], 1)))
    return np.repeat(start, lengths) + active + np.where(needed > room, gap * room // needed, gap)


def _stream(settings: SyntheticSettings, name: str) -> np.random.Generator:
    """Make the random stream of one aspect of the simulation."""
    return np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=tuple(name.encode())))


def _cumulative(probabilities: Floats) -> Floats:
    sums = np.cumsum(probabilities, axis=1)
    # Divide by the last sum, so that it is exactly 1 and every draw is below it.
    return np.asarray(sums / sums[:, -1:])


def _draw(cumulative: Floats, uniform: Floats) -> Integers:
    """Choose a column for each row, [n], from cumulative probabilities [n, K] and draws [n] from [0, 1)."""
    return np.asarray((uniform[:, None] >= cumulative).sum(axis=1))
