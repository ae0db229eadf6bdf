"""The sequences that sessionize must write: its rules followed one by one in plain Python."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from typing import Any

from interactions import DAY, DOMAINS, Interaction, Result

from oracles.sequence_metrics import expected_metrics, item_of
from tapestry.sessionize.settings import SessionizeSettings


class ExpectedError(Exception):
    """sessionize must raise an error. The text is a regular expression that its message matches."""


def owned(
    interactions: list[Interaction], counted: list[Interaction], settings: SessionizeSettings
) -> list[Interaction]:
    """The interactions whose domain owns their item: the domain with most of the item's `counted` interactions.

    With `contested_items: drop`, an item counted in several domains has no owner.
    """
    if settings.item_identity == "domain":
        return interactions
    domains_of: dict[str, set[int]] = defaultdict(set)
    for i in interactions:
        domains_of[i.item].add(i.domain)
    counts = Counter((i.item, i.domain) for i in counted)
    owner = {item: min(domains, key=lambda d: (-counts[item, d], d)) for item, domains in domains_of.items()}
    if settings.contested_items == "drop":
        claims = Counter(item for item, _ in counts)
        owner |= {item: -1 for item, domains in claims.items() if domains > 1}
    return [i for i in interactions if i.domain == owner[i.item]]


def require_few_contested(before: list[Interaction], after: list[Interaction], settings: SessionizeSettings) -> None:
    loaded, contested = Counter(i.domain for i in before), Counter(i.domain for i in before)
    contested.subtract(i.domain for i in after)
    if any(Fraction(contested[d], loaded[d]) > Fraction(str(settings.max_contested_share)) for d in loaded):
        raise ExpectedError(rf"would filter {contested.total()} of {loaded.total()} interactions .*max_contested_share")


def period_starts(interactions: list[Interaction], settings: SessionizeSettings) -> tuple[int, int]:
    """The days on which validation and test begin: quantiles of the interactions' days."""
    days = sorted(i.day for i in interactions)

    def quantile(share: Fraction) -> int:
        return days[max(math.ceil(share * len(days)), 1) - 1]

    validation, test = Fraction(str(settings.validation_share)), Fraction(str(settings.test_share))
    return quantile(1 - validation - test), quantile(1 - test)


def before_validation(interactions: list[Interaction], starts: tuple[int, int] | None) -> list[Interaction]:
    return [i for i in interactions if starts is None or i.day < starts[0]]


def without_short_users(remaining: list[Interaction], settings: SessionizeSettings) -> list[Interaction]:
    lengths = Counter(i.user for i in remaining)
    return [i for i in remaining if lengths[i.user] >= settings.min_user_interactions]


def without_users_of_few_domains(
    remaining: list[Interaction], settings: SessionizeSettings, interactions: int
) -> list[Interaction]:
    """Without users who have fewer than `min_domains` domains with so many interactions."""
    lengths = Counter((i.user, i.domain) for i in remaining)
    domains = Counter(user for (user, _), length in lengths.items() if length >= interactions)
    return [i for i in remaining if domains[i.user] >= settings.min_domains]


def without_rare_items(remaining: list[Interaction], settings: SessionizeSettings) -> list[Interaction]:
    popularity = Counter(map(item_of, remaining))
    return [i for i in remaining if popularity[item_of(i)] >= settings.min_item_interactions]


Filter = tuple[str, Callable[[list[Interaction]], list[Interaction]]]
"""The parameter of section `sessionize` that a filter follows, and the filter."""


def filters_of(settings: SessionizeSettings) -> list[Filter]:
    """The filters between the owner's and the last one of `max_length`, in order."""
    of_domain = settings.min_user_domain_interactions
    few_domains = ("min_user_domain_interactions" if of_domain > 1 else "min_domains", of_domain)

    def domains(name: str, interactions: int) -> Filter:
        return name, lambda remaining: without_users_of_few_domains(remaining, settings, interactions)

    short: Filter = ("min_user_interactions", lambda remaining: without_short_users(remaining, settings))
    rare: Filter = ("min_item_interactions", lambda remaining: without_rare_items(remaining, settings))
    old: list[Filter] = [("max_length", lambda remaining: recent(remaining, settings, None))]
    old = old if settings.truncate == "before" else []
    if settings.k_core == "once":
        return [domains("min_domains", 1), rare, *old, short, domains(*few_domains)]
    return [*old, short, domains(*few_domains), rare]


def core_of(
    interactions: list[Interaction],
    settings: SessionizeSettings,
    after: Callable[[str, list[Interaction], list[Interaction]], list[Interaction]] = lambda _, __, kept: kept,
) -> list[Interaction]:
    """The interactions that the filters leave; iterated, they are repeated until none removes any more.

    `after` is told each filter's parameter, and the interactions before and after it.
    """
    remaining = interactions
    steps = filters_of(settings)
    if settings.k_core == "iterated" and settings.truncate == "before":
        name, shorten = steps.pop(0)
        remaining = after(name, remaining, shorten(remaining))
    before = None
    while remaining != before:
        before = remaining
        for name, keep in steps:
            remaining = after(name, remaining, keep(remaining))
        if settings.k_core == "once":
            break
    return remaining


def recent(core: list[Interaction], settings: SessionizeSettings, starts: tuple[int, int] | None) -> list[Interaction]:
    """Each user's latest interactions, in order. The temporal split counts the training period; all later ones stay."""

    def order(i: Interaction) -> tuple[Any, ...]:
        name = [i.item, DOMAINS[i.domain]] if settings.item_identity == "domain" else [i.item]
        tie = hashlib.md5("\x1f".join([str(settings.seed), i.user, *name]).encode()).hexdigest()
        tie_order = (i.row, tie) if settings.ties == "row" else (tie,)
        if settings.order == "given":
            return (i.position,)
        return (i.day, i.split, *tie_order) if settings.split == "given" else (i.day, *tie_order)

    kept = []
    for user in sorted({i.user for i in core}):
        timeline = sorted((i for i in core if i.user == user), key=order)
        counted = len(before_validation(timeline, starts))
        kept += timeline[max(0, counted - settings.max_length) :]
    return kept


def filtered_by_rule(
    interactions: list[Interaction], settings: SessionizeSettings, starts: tuple[int, int] | None, domain: int | None
) -> dict[str, tuple[int, int]]:
    """{parameter: (interactions, users)} that each rule filters of one domain, or of all domains (None)."""
    filtered: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))

    def after(parameter: str, before: list[Interaction], remaining: list[Interaction]) -> list[Interaction]:
        rows_before, rows_after = ([i for i in part if domain in (None, i.domain)] for part in (before, remaining))
        rows, users = filtered[parameter]
        users += len({i.user for i in rows_before}) - len({i.user for i in rows_after})
        filtered[parameter] = (rows + len(rows_before) - len(rows_after), users)
        return remaining

    contested = "contested_items" if settings.contested_items == "drop" else "item_identity"
    remaining = after(contested, interactions, owned(interactions, before_validation(interactions, starts), settings))
    remaining = after("validation_share", remaining, before_validation(remaining, starts))
    remaining = core_of(remaining, settings, after)
    after("max_length", remaining, recent(remaining, settings, starts))
    return {parameter: count for parameter, count in filtered.items() if count[0]}


DESCRIPTIONS = {
    "item_identity": "of items of another domain",
    "contested_items": "of items of another domain",
    "validation_share": "after the training period",
    "min_user_interactions": "of users with fewer than {min_user_interactions} interactions",
    "min_domains": "of users with fewer than {min_domains} domains",
    "min_user_domain_interactions": (
        "of users with fewer than {min_domains} domains of {min_user_domain_interactions} interactions"
    ),
    "min_item_interactions": "of items with fewer than {min_item_interactions} interactions",
    "max_length": "older than the last {max_length} of a user",
}


def require_every_domain(
    remaining: list[Interaction],
    interactions: list[Interaction],
    settings: SessionizeSettings,
    starts: tuple[int, int] | None,
    domains: int,
) -> None:
    empty = [d for d in range(domains) if all(i.domain != d for i in remaining)]
    if not empty:
        return
    details = []
    for d in [None] if len(empty) == domains else empty:
        loaded = [i for i in interactions if d in (None, i.domain)]
        text = f"{'All domains' if d is None else DOMAINS[d]}: "
        if not loaded:
            details.append(f"{text}ingest wrote no interaction.")
            continue
        filtered = filtered_by_rule(interactions, settings, starts, d)
        parts = [
            f"{rows} {DESCRIPTIONS[parameter].format(**asdict(settings))} (users removed: {users})"
            for parameter, (rows, users) in filtered.items()
        ]
        without_shares = {
            parameter: rows for parameter, (rows, _) in filtered.items() if parameter != "validation_share"
        }
        largest = max(without_shares, key=lambda name: without_shares[name]) if without_shares else "validation_share"
        text += f"{len(loaded)} interactions of {len({i.user for i in loaded})} users before filtering. Filtered: "
        text += f"{', '.join(parts)}. "
        details.append(rf"{re.escape(text)}[^.()]*\.{largest}\b")
    raise ExpectedError(
        f"no user remains in {', '.join(DOMAINS[d] for d in empty)} after filtering. {'.*'.join(details)}"
    )


def filtered_by_domain(before: list[Interaction], after: list[Interaction], domains: int) -> list[int]:
    return [sum(i.domain == d for i in before) - sum(i.domain == d for i in after) for d in range(domains)]


def require_given_split(timelines: dict[str, list[Interaction]]) -> None:
    for user, steps in timelines.items():
        for before, after in itertools.pairwise(steps):
            if after.split < before.split:
                raise ExpectedError(rf"user_id '{user}' has one of \w+ at position \d+, after one of")


def expected_result(interactions: list[Interaction], settings: SessionizeSettings, domains: int) -> Result:
    starts = period_starts(interactions, settings) if settings.split == "temporal" else None
    of_owner = owned(interactions, before_validation(interactions, starts), settings)
    require_few_contested(interactions, of_owner, settings)
    shortened: list[list[Interaction]] = []  # before and after `truncate: before`

    def after(name: str, before: list[Interaction], kept: list[Interaction]) -> list[Interaction]:
        if name == "max_length":
            shortened.extend([before, kept])
        return kept

    core = core_of(before_validation(of_owner, starts), settings, after)
    if starts:
        users, items = {i.user for i in core}, set(map(item_of, core))
        core = [i for i in of_owner if i.user in users and item_of(i) in items]
    kept = recent(core, settings, starts)
    timelines = {user: list(steps) for user, steps in itertools.groupby(kept, key=lambda i: i.user)}
    require_every_domain(kept, interactions, settings, starts, domains)

    if settings.split == "given":
        require_given_split(timelines)

    def split(position: int, timeline: list[Interaction]) -> int:
        if settings.split == "given":
            return timeline[position].split
        if settings.split == "leave_one_out_by_domain":
            same = [k for k, i in enumerate(timeline) if i.domain == timeline[position].domain]
            return 0 if len(same) < 3 else max(0, same.index(position) + 3 - len(same))
        if starts is None:
            return max(0, position + 3 - len(timeline))
        return sum(timeline[position].day >= start for start in starts)

    steps = [
        (user, position, i, split(position, timeline))
        for user, timeline in timelines.items()
        for position, i in enumerate(timeline)
    ]
    for number, name in ((1, "validation"), (2, "test")):
        if not any(which == number and position > 0 for _, position, _, which in steps):
            given = rf"split: {settings.split}, but no interaction of {name}"
            raise ExpectedError(f"the {name} split has no target" if settings.split == "temporal" else given)
    vocabulary = sorted(set(map(item_of, kept)))
    ids = {item: number for number, item in enumerate(vocabulary)}
    numbers = {user: number for number, user in enumerate(timelines)}
    trained = Counter(item_of(i) for _, _, i, which in steps if which == 0)
    domain_of = [domain for domain, _ in vocabulary]
    lengths = [len(timeline) for timeline in timelines.values()]
    early = filtered_by_domain(shortened[0], shortened[1], domains) if shortened else [0] * domains
    late, all_of_core = filtered_by_domain(core, kept, domains), filtered_by_domain(of_owner, core, domains)
    filtered = {
        "item of another domain": filtered_by_domain(interactions, of_owner, domains),
        "too few interactions or domains": [rows - old for rows, old in zip(all_of_core, early, strict=True)],
        "older than max_length": [rows + old for rows, old in zip(late, early, strict=True)],
    }
    return Result(
        sequences=[
            (numbers[user], position, ids[item_of(i)], i.domain, i.day * DAY, which)
            for user, position, i, which in steps
        ],
        users=[(numbers[user], user, sum(lengths[: numbers[user]]), len(timelines[user])) for user in timelines],
        items=[(number, item, domain, trained[domain, item]) for number, (domain, item) in enumerate(vocabulary)],
        domains=[
            {"name": DOMAINS[d], "start": domain_of.index(d), "end": domain_of.index(d) + domain_of.count(d)}
            for d in range(domains)
        ],
        metrics=expected_metrics(interactions, list(timelines.values()), filtered, domains),
    )
