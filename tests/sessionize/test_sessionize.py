"""Sequences against the rules in sessionize's docstring, followed one by one in plain Python."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
import re
import statistics
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.core.errors import TapestryError
from tapestry.parameters import Parameters
from tapestry.provenance.hashes import content_hash
from tapestry.sessionize.sessionize import DomainInput, contested_interactions, sessionize
from tapestry.sessionize.settings import SessionizeSettings

DAY = 86_400_000
DOMAINS = ("Toys", "Books", "Games")  # not in alphabetical order: the vocabulary follows the list


class Interaction(NamedTuple):
    user: str
    item: str
    domain: int
    day: int
    row: int  # of the domain's raw file


@pytest.fixture(scope="session")
def settings(parameters: Parameters) -> SessionizeSettings:
    """Filters that small data passes."""
    return replace(
        parameters.sessionize,
        max_contested_share=1.0,
        min_user_interactions=3,
        min_item_interactions=1,
        min_domains=1,
        split="leave_one_out",
    )


def write_inputs(folder: Path, interactions: list[Interaction], domains: int) -> dict[str, DomainInput]:
    """What ingest would have made; of each domain d, d rows were quarantined and 2 d duplicates."""
    inputs = {}
    schema = pa.schema(
        {
            "user_id": "string",
            "item_id": "string",
            "timestamp": "int64",
            "rating": "float32",
            "domain": "string",
            "row": "int64",
        }
    )
    for domain, name in enumerate(DOMAINS[:domains]):
        rows = sorted(i for i in interactions if i.domain == domain)
        values = [
            {"user_id": i.user, "item_id": i.item, "timestamp": i.day * DAY, "domain": name, "row": i.row} for i in rows
        ]
        inputs[name] = DomainInput(folder / f"{name}.parquet", folder / f"{name}.json")
        pq.write_table(pa.Table.from_pylist(values, schema), inputs[name].interactions)
        counts = {
            "rows_in": len(rows) + 3 * domain,
            "rows_quarantined": domain,
            "rows_duplicate": 2 * domain,
            "reasons": {"missing user": domain},
        }
        inputs[name].counts.write_text(json.dumps(counts))
    return inputs


@dataclass(frozen=True)
class Result:
    """The files of a sequences folder, and what sessionize returned."""

    sequences: list[tuple[int, ...]]
    users: list[tuple[Any, ...]]
    items: list[tuple[Any, ...]]
    domains: list[dict[str, Any]]
    metrics: dict[str, Any]

    def timelines(self) -> dict[str, list[tuple[int, str]]]:
        """Each user's (day, item), in order."""
        return {
            user_id: [
                (time // DAY, self.items[item][1])
                for _, _, item, _, time, _ in self.sequences[offset : offset + length]
            ]
            for _, user_id, offset, length in self.users
        }


def rows_of(path: Path, types: dict[str, str]) -> list[tuple[Any, ...]]:
    table = pq.read_table(path)
    assert {field.name: str(field.type) for field in table.schema} == types
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def sessionized(
    folder: Path, interactions: list[Interaction], settings: SessionizeSettings, domains: int = 2
) -> Result:
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "sequences"
    metrics = sessionize(write_inputs(folder, interactions, domains), settings, out)
    return read_result(out, metrics)


def read_result(out: Path, metrics: dict[str, Any]) -> Result:
    assert {path.name for path in out.iterdir()} == {
        "sequences.parquet",
        "users.parquet",
        "items.parquet",
        "domains.json",
    }
    sequence_types = {
        "user": "int32",
        "position": "int32",
        "item": "int32",
        "domain": "int16",
        "timestamp": "int64",
        "split": "int8",
    }
    return Result(
        sequences=rows_of(out / "sequences.parquet", sequence_types),
        users=rows_of(
            out / "users.parquet", {"user": "int32", "user_id": "string", "offset": "int64", "length": "int32"}
        ),
        items=rows_of(
            out / "items.parquet", {"item": "int32", "item_id": "string", "domain": "int16", "train_count": "int64"}
        ),
        domains=json.loads((out / "domains.json").read_text()),
        metrics=metrics,
    )


# The rules, in plain Python.


class Refused(Exception):  # noqa: N818
    """The error that is due."""


def owned(
    interactions: list[Interaction], counted: list[Interaction], settings: SessionizeSettings
) -> list[Interaction]:
    """The interactions of an item in the domain that has most of those that are `counted`."""
    if settings.item_identity == "domain":
        return interactions
    domains: dict[str, set[int]] = defaultdict(set)
    for i in interactions:
        domains[i.item].add(i.domain)
    claims = Counter((i.item, i.domain) for i in counted)
    owner = {item: min(claimed, key=lambda d: (-claims[item, d], d)) for item, claimed in domains.items()}
    return [i for i in interactions if i.domain == owner[i.item]]


def require_few_contested(before: list[Interaction], after: list[Interaction], settings: SessionizeSettings) -> None:
    had, lost = Counter(i.domain for i in before), Counter(i.domain for i in before)
    lost.subtract(i.domain for i in after)
    if any(Fraction(lost[d], had[d]) > Fraction(str(settings.max_contested_share)) for d in had):
        raise Refused(rf"would filter {lost.total()} of {had.total()} interactions .*max_contested_share")


def period_starts(interactions: list[Interaction], settings: SessionizeSettings) -> tuple[int, int]:
    """The days on which validation and test begin: quantiles of the interactions' days."""
    days = sorted(i.day for i in interactions)

    def quantile(share: Fraction) -> int:
        return days[max(math.ceil(share * len(days)), 1) - 1]

    validation, test = Fraction(str(settings.validation_share)), Fraction(str(settings.test_share))
    return quantile(1 - validation - test), quantile(1 - test)


def before_validation(interactions: list[Interaction], starts: tuple[int, int] | None) -> list[Interaction]:
    return [i for i in interactions if starts is None or i.day < starts[0]]


def item_of(i: Interaction) -> tuple[int, str]:
    """What names an item, once each belongs to one domain."""
    return i.domain, i.item


def few_interactions(left: list[Interaction], settings: SessionizeSettings) -> list[Interaction]:
    lengths = Counter(i.user for i in left)
    return [i for i in left if lengths[i.user] >= settings.min_user_interactions]


def few_domains(left: list[Interaction], settings: SessionizeSettings) -> list[Interaction]:
    domains: dict[str, set[int]] = defaultdict(set)
    for i in left:
        domains[i.user].add(i.domain)
    return [i for i in left if len(domains[i.user]) >= settings.min_domains]


def rare_items(left: list[Interaction], settings: SessionizeSettings) -> list[Interaction]:
    popularity = Counter(map(item_of, left))
    return [i for i in left if popularity[item_of(i)] >= settings.min_item_interactions]


def core_of(interactions: list[Interaction], settings: SessionizeSettings) -> list[Interaction]:
    """What is left when no filter removes any more."""
    left, before = interactions, None
    while left != before:
        before = left
        left = rare_items(few_domains(few_interactions(left, settings), settings), settings)
    return left


def recent(core: list[Interaction], settings: SessionizeSettings, starts: tuple[int, int] | None) -> list[Interaction]:
    """Each user's latest, in order; of the temporal split's training period, and all that follows."""

    def place(i: Interaction) -> tuple[Any, ...]:
        name = [i.item, DOMAINS[i.domain]] if settings.item_identity == "domain" else [i.item]
        tie = hashlib.md5("\x1f".join([str(settings.seed), i.user, *name]).encode()).hexdigest()
        return (i.day, i.row, tie) if settings.ties == "row" else (i.day, tie)

    kept = []
    for user in sorted({i.user for i in core}):
        timeline = sorted((i for i in core if i.user == user), key=place)
        counted = len(before_validation(timeline, starts))
        kept += timeline[max(0, counted - settings.max_length) :]
    return kept


def what_each_rule_took(
    interactions: list[Interaction], settings: SessionizeSettings, starts: tuple[int, int] | None, domain: int | None
) -> dict[str, tuple[int, int]]:
    """{parameter: (rows, users)} of one domain or of all, as the message of a domain left empty tells it."""
    taken: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))

    def after(parameter: str, before: list[Interaction], left: list[Interaction]) -> list[Interaction]:
        had, has = ([i for i in part if domain in (None, i.domain)] for part in (before, left))
        rows, users = taken[parameter]
        users += len({i.user for i in had}) - len({i.user for i in has})
        taken[parameter] = (rows + len(had) - len(has), users)
        return left

    left = after("item_identity", interactions, owned(interactions, before_validation(interactions, starts), settings))
    left = after("validation_share", left, before_validation(left, starts))
    before = None
    while left != before:
        before = left
        left = after("min_user_interactions", left, few_interactions(left, settings))
        left = after("min_domains", left, few_domains(left, settings))
        left = after("min_item_interactions", left, rare_items(left, settings))
    after("max_length", left, recent(left, settings, starts))
    return {parameter: count for parameter, count in taken.items() if count[0]}


TOLD = {
    "item_identity": "of items of another domain",
    "validation_share": "after the training period",
    "min_user_interactions": "of users of fewer than {min_user_interactions} interactions",
    "min_domains": "of users of fewer than {min_domains} domains",
    "min_item_interactions": "of items of fewer than {min_item_interactions} interactions",
    "max_length": "older than the last {max_length} of a user",
}


def require_every_domain(
    left: list[Interaction],
    interactions: list[Interaction],
    settings: SessionizeSettings,
    starts: tuple[int, int] | None,
    domains: int,
) -> None:
    empty = [d for d in range(domains) if all(i.domain != d for i in left)]
    if not empty:
        return
    told = []
    for d in [None] if len(empty) == domains else empty:
        had = [i for i in interactions if d in (None, i.domain)]
        text = f"{'All domains' if d is None else DOMAINS[d]}: "
        if not had:
            told.append(f"{text}ingest left no interaction.")
            continue
        taken = what_each_rule_took(interactions, settings, starts, d)
        parts = [
            f"{rows} {TOLD[parameter].format(**asdict(settings))} (the last of {users} users)"
            for parameter, (rows, users) in taken.items()
        ]
        of_rules = {parameter: rows for parameter, (rows, _) in taken.items() if parameter != "validation_share"}
        worst = max(of_rules, key=lambda name: of_rules[name]) if of_rules else "validation_share"
        text += f"of {len(had)} interactions of {len({i.user for i in had})} users were filtered {', '.join(parts)}. "
        told.append(rf"{re.escape(text)}[^.()]*\.{worst}\b")
    raise Refused(f"no user is left in {', '.join(DOMAINS[d] for d in empty)} after filtering. {'.*'.join(told)}")


def lost(before: list[Interaction], after: list[Interaction], domains: int) -> list[int]:
    return [sum(i.domain == d for i in before) - sum(i.domain == d for i in after) for d in range(domains)]


def expected_result(interactions: list[Interaction], settings: SessionizeSettings, domains: int) -> Result:
    starts = period_starts(interactions, settings) if settings.split == "temporal" else None
    of_owner = owned(interactions, before_validation(interactions, starts), settings)
    require_few_contested(interactions, of_owner, settings)
    in_training = core_of(before_validation(of_owner, starts), settings)
    users, items = {i.user for i in in_training}, set(map(item_of, in_training))
    core = [i for i in of_owner if i.user in users and item_of(i) in items]
    require_every_domain(core, interactions, settings, starts, domains)
    kept = recent(core, settings, starts)
    timelines = {user: list(steps) for user, steps in itertools.groupby(kept, key=lambda i: i.user)}
    require_every_domain(kept, interactions, settings, starts, domains)

    def split(position: int, timeline: list[Interaction]) -> int:
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
            raise Refused(f"no {name} interaction is left with a history")
    vocabulary = sorted(set(map(item_of, kept)))
    ids = {item: number for number, item in enumerate(vocabulary)}
    numbers = {user: number for number, user in enumerate(timelines)}
    trained = Counter(item_of(i) for _, _, i, which in steps if which == 0)
    domain_of = [domain for domain, _ in vocabulary]
    lengths = [len(timeline) for timeline in timelines.values()]
    losses = {
        "item of another domain": lost(interactions, of_owner, domains),
        "too few interactions or domains": lost(of_owner, core, domains),
        "older than max_length": lost(core, kept, domains),
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
        metrics=expected_metrics(interactions, list(timelines.values()), losses, domains),
    )


def expected_metrics(
    interactions: list[Interaction], timelines: list[list[Interaction]], losses: dict[str, list[int]], domains: int
) -> dict[str, Any]:
    accounts: list[dict[str, Any]] = []
    for d in range(domains):
        filtered = {"duplicate": 2 * d} | {why: by_domain[d] for why, by_domain in losses.items()}
        accounts.append(
            {
                "rows_in": sum(i.domain == d for i in interactions) + 3 * d,
                "rows_kept": sum(i.domain == d for timeline in timelines for i in timeline),
                "rows_quarantined": d,
                "rows_filtered": sum(filtered.values()),
                "quarantined": {"missing user": d},
                "filtered": filtered,
            }
        )
    names = ("rows_in", "rows_kept", "rows_quarantined", "rows_filtered")
    total = {name: sum(account[name] for account in accounts) for name in names}
    assert total["rows_in"] == sum(total[name] for name in names[1:])
    return {
        "all": total | figures(timelines, None),
        "domain": {DOMAINS[d]: account | figures(timelines, d) for d, account in enumerate(accounts)},
    }


def figures(timelines: list[list[Interaction]], domain: int | None) -> dict[str, Any]:
    """The statistics of all domains, or of one."""
    mine = [[i for i in timeline if domain in (None, i.domain)] for timeline in timelines]
    pairs = [pair for timeline in timelines for pair in itertools.pairwise(timeline)]
    into = [pair for pair in pairs if domain in (None, pair[1].domain)]
    switches = [pair for pair in into if pair[0].domain != pair[1].domain]
    leaving = [pair for pair in pairs if domain in (None, pair[0].domain)]
    transitions = Counter((a.domain, b.domain) for a, b in leaving)
    sources = Counter(a.domain for a, _ in leaving)
    shares = [
        sum(
            (count / len(timeline)) ** 2
            for d, count in Counter(i.domain for i in timeline).items()
            if domain in (None, d)
        )
        for timeline in timelines
    ]
    return {
        "users": sum(bool(timeline) for timeline in mine),
        "items": len({item_of(i) for timeline in mine for i in timeline}),
        "interactions": sum(map(len, mine)),
        "delta": pytest.approx(statistics.fmean(shares)),
        "transition_entropy": pytest.approx(
            -sum(count / len(leaving) * math.log(count / sources[a]) for (a, _), count in transitions.items())
        ),
        "tied_pairs": pytest.approx(sum(a.day == b.day for a, b in into) / max(len(into), 1)),
        "tied_switches": pytest.approx(sum(a.day == b.day for a, b in switches) / max(len(switches), 1)),
    }


@st.composite
def interactions_of(draw: st.DrawFn, domains: int) -> list[Interaction]:
    """A few users and items, many on the same day, two items claimed by every domain, two users of one domain."""
    user_and_domain = st.sampled_from(
        [("u1", 0), ("U2", 1), *((user, domain) for user in ("é", "a", "u10", "Z") for domain in range(domains))]
    )
    keys = draw(
        st.lists(
            st.tuples(user_and_domain, st.integers(0, 5), st.integers(0, 8)), min_size=40, max_size=130, unique=True
        )
    )
    rows = draw(st.permutations(range(1, len(keys) + 1)))
    return [
        Interaction(user, f"shared{item}" if item < 2 else f"{'yxz'[domain]}{item}", domain, day, row)
        for ((user, domain), item, day), row in zip(keys, rows, strict=True)
    ]


cases = st.integers(2, 3).flatmap(lambda domains: st.tuples(interactions_of(domains), st.just(domains)))
filters = st.fixed_dictionaries(
    {
        "item_identity": st.sampled_from(["global", "domain"]),
        "max_contested_share": st.sampled_from([0.2, 1.0, 1.0, 1.0]),
        "min_user_interactions": st.integers(3, 9),
        "min_item_interactions": st.integers(1, 4),
        "min_domains": st.integers(1, 3),
        "max_length": st.integers(3, 20),
        "ties": st.sampled_from(["hash", "row"]),
        "seed": st.integers(-1, 3),
        "threads": st.integers(1, 4),
    }
)
shares = st.sampled_from([0.1, 0.2, 0.25, 0.3])


def assert_follows_the_rules(
    folder: Path, interactions: list[Interaction], settings: SessionizeSettings, domains: int
) -> None:
    try:
        expected = expected_result(interactions, settings, domains)
    except Refused as due:
        with pytest.raises(TapestryError, match=str(due)):
            sessionized(folder, interactions, settings, domains)
        assert not any(path.is_dir() for path in folder.iterdir())
    else:
        assert sessionized(folder, interactions, settings, domains) == expected


@hypothesis.settings(max_examples=12, deadline=None)
@given(case=cases, values=filters)
def test_leave_one_out_follows_the_rules(
    settings: SessionizeSettings,
    tmp_path_factory: pytest.TempPathFactory,
    case: tuple[list[Interaction], int],
    values: dict[str, Any],
) -> None:
    assert_follows_the_rules(tmp_path_factory.mktemp("loo"), case[0], replace(settings, **values), case[1])


@hypothesis.settings(max_examples=12, deadline=None)
@given(case=cases, values=filters, validation_share=shares, test_share=shares)
def test_the_temporal_split_follows_the_rules(
    settings: SessionizeSettings,
    tmp_path_factory: pytest.TempPathFactory,
    case: tuple[list[Interaction], int],
    values: dict[str, Any],
    validation_share: float,
    test_share: float,
) -> None:
    values |= {"min_user_interactions": values["min_user_interactions"] - 2}
    temporal = replace(settings, split="temporal", validation_share=validation_share, test_share=test_share, **values)
    assert_follows_the_rules(tmp_path_factory.mktemp("temporal"), case[0], temporal, case[1])


# Filters and errors.


def timeline(user: str, *steps: tuple[str, int, int]) -> list[Interaction]:
    """A user's (item, domain, day) in order of the raw row."""
    return [Interaction(user, item, domain, day, 100 + row) for row, (item, domain, day) in enumerate(steps)]


def test_users_of_fewer_than_3_interactions_are_filtered_and_counted(
    settings: SessionizeSettings, tmp_path: Path
) -> None:
    interactions = [
        *timeline("three", ("a", 0, 1), ("b", 1, 2), ("a", 0, 3)),
        *timeline("two", ("a", 0, 1), ("b", 1, 2)),
        *timeline("one", ("b", 1, 1)),
    ]
    result = sessionized(tmp_path, interactions, settings)
    assert [user_id for _, user_id, _, _ in result.users] == ["three"]
    assert [split for *_, split in result.sequences] == [0, 1, 2]
    for name, count in (("Toys", 1), ("Books", 2)):
        assert result.metrics["domain"][name]["filtered"]["too few interactions or domains"] == count


def test_users_of_fewer_domains_than_asked_for_are_filtered(settings: SessionizeSettings, tmp_path: Path) -> None:
    interactions = [
        *timeline("both", ("a", 0, 1), ("a", 0, 2), ("b", 1, 3)),
        *timeline("one", ("a", 0, 1), ("a", 0, 2), ("a", 0, 3)),
    ]
    result = sessionized(tmp_path, interactions, replace(settings, min_domains=2))
    assert [user_id for _, user_id, _, _ in result.users] == ["both"]


@pytest.mark.parametrize("chained", [1, 2, 3, 8])
def test_filtering_is_repeated_until_it_changes_nothing(
    chained: int, settings: SessionizeSettings, tmp_path: Path
) -> None:
    """Removing "short" leaves item 0 too rare, and that leaves user 1 too short, and so on to the last."""
    interactions = [
        *timeline("short", ("0", 1, 1), ("a", 0, 2)),
        *(
            step
            for link in range(chained)
            for step in timeline(str(link + 1), (f"{link}", 1, 1), (f"{link + 1}", 1, 2), ("a", 0, 3))
        ),
        *timeline("later", (f"{chained}", 1, 1), ("a", 0, 2), ("b", 1, 3)),
        *(step for name in ("x", "y") for step in timeline(name, ("a", 0, 1), ("b", 1, 2), ("a", 0, 3))),
    ]
    result = sessionized(tmp_path, interactions, replace(settings, min_item_interactions=2))
    assert [user_id for _, user_id, _, _ in result.users] == ["x", "y"]
    assert [item_id for _, item_id, _, _ in result.items] == ["a", "b"]


def test_a_domain_without_users_is_an_error_that_names_it_and_keeps_the_old_folder(
    settings: SessionizeSettings, tmp_path: Path
) -> None:
    interactions = [
        *timeline("u", ("a", 0, 1), ("a", 0, 2), ("a", 0, 3)),
        *timeline("v", ("b", 1, 1)),
    ]
    old = tmp_path / "sequences" / "old"
    old.parent.mkdir()
    old.touch()
    with pytest.raises(TapestryError, match=r"no user is left in Books after filtering\. Books: of 1 .*min_user"):
        sessionized(tmp_path, interactions, settings)
    assert list(old.parent.iterdir()) == [old]
    assert not list(tmp_path.glob("*.partial"))


def test_a_domain_that_only_older_interactions_had_is_an_error_that_names_it(
    settings: SessionizeSettings, tmp_path: Path
) -> None:
    interactions = timeline("u", ("b", 1, 1), ("a", 0, 2), ("a", 0, 3), ("a", 0, 4))
    with pytest.raises(TapestryError, match="no user is left in Books after filtering"):
        sessionized(tmp_path, interactions, replace(settings, max_length=3))


def test_what_each_rule_took_is_told_and_the_parameter_of_the_one_that_took_the_most(
    settings: SessionizeSettings, tmp_path: Path
) -> None:
    """Of Books 2 interactions of users of one domain, then 6 of items that are too rare, and the last of "w"."""
    interactions = [
        *(step for n in range(5) for step in timeline(f"u{n}", ("a", 0, 1), ("a", 0, 2), ("c", 2, 3))),
        *timeline("v", ("b", 1, 1), ("b", 1, 2)),
        *timeline("w", ("c", 2, 1), ("b", 1, 2), *((f"b{n}", 1, 3 + n) for n in range(6))),
    ]
    changed = replace(settings, min_domains=2, min_item_interactions=2)
    with pytest.raises(TapestryError) as caught:
        sessionized(tmp_path, interactions, changed, domains=3)
    assert str(caught.value) == (
        "sessionize: no user is left in Books after filtering. Books: of 9 interactions of 2 users were filtered 2 of "
        "users of fewer than 3 interactions (the last of 1 users), 7 of items of fewer than 2 interactions (the last "
        "of 1 users). Lower sessionize.min_item_interactions (now 2). Or leave Books out of source.domains"
    )


def test_if_all_domains_are_left_empty_they_are_told_as_one(settings: SessionizeSettings, tmp_path: Path) -> None:
    interactions = [*timeline("u", *(("a", 0, n) for n in range(5))), *timeline("v", *(("b", 1, n) for n in range(4)))]
    with pytest.raises(TapestryError) as caught:
        sessionized(tmp_path, interactions, replace(settings, min_domains=2))
    assert str(caught.value) == (
        "sessionize: no user is left in Toys, Books after filtering. All domains: of 9 interactions of 2 users were "
        "filtered 9 of users of fewer than 2 domains (the last of 2 users). Lower sessionize.min_domains (now 2)."
    )


# What an item is.


def numbered_apart(users: int) -> list[Interaction]:
    """Each domain numbers its items from 1; Books has twice as many interactions as Toys."""
    return [
        step
        for n in range(users)
        for step in timeline(f"u{n}", ("1", 0, 1), ("1", 1, 1), ("2", 1, 2), ("2", 0, 3), ("1", 1, 4), ("1", 1, 5))
    ]


def test_items_numbered_apart_are_an_error_that_names_rule_share_and_parameters(
    settings: SessionizeSettings, tmp_path: Path
) -> None:
    interactions = [*numbered_apart(5), *timeline("v", ("3", 0, 1), ("4", 1, 2), ("3", 0, 3))]
    with pytest.raises(TapestryError) as caught:
        sessionized(tmp_path, interactions, replace(settings, max_contested_share=0.05))
    assert str(caught.value) == (
        'sessionize: the rule "item of another domain" would filter 10 of 33 interactions (30.3%), by domain: Toys 5 '
        "of 12 (41.7%), Books 5 of 21 (23.8%). sessionize.max_contested_share allows 0.05 of a domain's. With "
        "sessionize.item_identity: global an id is one item wherever it occurs, and belongs to the domain with most of "
        "its interactions. If each domain numbers its items by itself, set sessionize.item_identity to domain; if "
        "these rows may go, raise sessionize.max_contested_share to 0.417"
    )
    assert not (tmp_path / "sequences").exists()
    assert sessionized(tmp_path, interactions, replace(settings, max_contested_share=0.417)).metrics["all"]


def test_items_numbered_apart_are_items_of_their_own_in_each_domain(
    settings: SessionizeSettings, tmp_path: Path
) -> None:
    result = sessionized(
        tmp_path, numbered_apart(5), replace(settings, item_identity="domain", max_contested_share=0.0)
    )
    assert [(item_id, domain) for _, item_id, domain, _ in result.items] == [("1", 0), ("2", 0), ("1", 1), ("2", 1)]
    assert result.metrics["all"]["interactions"] == 30
    assert contested_interactions(result.metrics) is None


def test_contested_interactions_that_are_few_are_told(settings: SessionizeSettings, tmp_path: Path) -> None:
    interactions = [*numbered_apart(5), *timeline("v", ("3", 0, 1), ("4", 1, 2), ("3", 0, 3))]
    metrics = sessionized(tmp_path, interactions, settings).metrics
    assert contested_interactions(metrics) == (
        "item of another domain: 10 of 33 interactions filtered (30.30%; Toys 5, Books 5); if each domain numbers its "
        "items by itself, set sessionize.item_identity to domain"
    )


def test_of_tied_items_of_one_id_no_domain_comes_first_by_rule(settings: SessionizeSettings, tmp_path: Path) -> None:
    interactions = [
        step for n in range(300) for step in timeline(f"u{n}", ("1", 0, 1), ("1", 1, 1), ("2", 0, 2), ("2", 1, 3))
    ]
    by_domain = replace(settings, item_identity="domain")
    result = sessionized(tmp_path / "a", interactions, by_domain)
    firsts = [domain for _, position, _, domain, _, _ in result.sequences if position == 0]
    assert 120 < sum(firsts) < 180
    turned = [i._replace(row=1000 - i.row) for i in reversed(interactions)]
    assert sessionized(tmp_path / "b", turned, by_domain).sequences == result.sequences


# Rules that look at the training period alone.


def test_max_length_counts_the_training_period_and_what_follows_stays(
    settings: SessionizeSettings, tmp_path: Path
) -> None:
    """10 users of 5 interactions before validation, 1 in it and 4 in the test period."""
    days = [1, 2, 3, 4, 5, 6, 8, 8, 8, 9]
    interactions = [
        step
        for n in range(10)
        for step in timeline(f"u{n}", *(("ab"[k % 2], k % 2, day) for k, day in enumerate(days)))
    ]
    temporal = replace(settings, split="temporal", max_length=3, validation_share=0.1, test_share=0.35)
    result = sessionized(tmp_path, interactions, temporal)
    assert [[day for day, _ in steps] for steps in result.timelines().values()] == [days[2:]] * 10
    assert [split for *_, split in result.sequences] == [0, 0, 0, 1, 2, 2, 2, 2] * 10
    assert sum(row["filtered"]["older than max_length"] for row in result.metrics["domain"].values()) == 20


def test_who_owns_an_item_is_counted_in_the_training_period(settings: SessionizeSettings, tmp_path: Path) -> None:
    """Toys has 4 interactions of x before validation, Books 2, and 30 in the test period; y comes in it alone."""
    interactions = [
        *(step for n in range(4) for step in timeline(f"u{n}", ("x", 0, 1), ("b", 1, 2), ("a", 0, 3), ("b", 1, 4))),
        *(step for n in range(2) for step in timeline(f"u{n}", ("x", 1, 3))),
        *(step for n in range(4) for step in timeline(f"u{n}", ("a", 0, 5), ("b", 1, 6))),
        *(step for n in range(30) for step in timeline(f"v{n}", ("x", 1, 6), ("y", 1, 6), ("y", 0, 6))),
    ]
    temporal = replace(settings, split="temporal", min_user_interactions=1, validation_share=0.1, test_share=0.75)
    result = sessionized(tmp_path, interactions, temporal)
    training = [(user, step) for user, steps in result.timelines().items() for step in steps if step[0] < 5]
    assert training == [(f"u{n}", step) for n in range(4) for step in [(1, "x"), (2, "b"), (3, "a"), (4, "b")]]
    assert [(item, domain) for _, item, domain, _ in result.items] == [("a", 0), ("x", 0), ("b", 1)]
    lost = {name: row["filtered"] for name, row in result.metrics["domain"].items()}
    assert lost["Toys"]["item of another domain"] == 0  # y, which has no owner in training, is the first domain's
    assert lost["Books"]["item of another domain"] == 2 + 30 + 30
    assert lost["Toys"]["too few interactions or domains"] == 30


def some_interactions(generator: random.Random, count: int, domains: int, day: int) -> list[Interaction]:
    """On a day, of 8 users and 6 items a domain, of which the domains share 3."""
    made: set[Interaction] = set()
    while len(made) < count:
        user, item, domain = f"u{generator.randrange(8)}", generator.randrange(6), generator.randrange(domains)
        made.add(Interaction(user, f"{item}" if item < 3 else f"{domain}{item}", domain, day, 1))
    return sorted(made)


@hypothesis.settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), values=filters, domains=st.integers(2, 3), more=st.integers(-20, 12))
def test_no_later_interaction_decides_which_training_interactions_are_kept(
    settings: SessionizeSettings,
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    values: dict[str, Any],
    domains: int,
    more: int,
) -> None:
    """Later ones are replaced by others, more or fewer, such that the periods begin when they did."""
    values = values | {"max_contested_share": 1.0, "min_domains": 1, "min_user_interactions": 3}
    temporal = replace(settings, split="temporal", validation_share=0.15, test_share=0.1, **values)
    generator = random.Random(seed)
    training = [i for day in range(6) for i in some_interactions(generator, 20, domains, day)]
    kept = []
    for count in (40, 40 + more):
        later = [i for day, rows in ((6, 40), (7, count)) for i in some_interactions(generator, rows, domains, day)]
        assert period_starts(training + later, temporal) == (6, 7)
        result = sessionized(tmp_path_factory.mktemp("later"), training + later, temporal, domains)
        names = {item: item_id for item, item_id, _, _ in result.items}
        kept.append(
            [
                (result.users[user][1], names[item], domain, time, position)
                for user, position, item, domain, time, split in result.sequences
                if split == 0
            ]
        )
    assert kept[0]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("name", ["validation", "test"])
def test_a_split_without_targets_is_an_error_that_names_its_share(
    settings: SessionizeSettings, tmp_path: Path, name: str
) -> None:
    """All the training is on day 1, and nobody who was there comes back for the period."""
    came_back, new = {"validation": (9, 5), "test": (5, 9)}[name]
    interactions = [
        *(step for n in range(8) for step in timeline(f"u{n}", ("a", 0, 1), ("b", 1, 1), ("c", 0, 1))),
        *(step for n in range(8) for step in timeline(f"u{n}", ("a", 0, came_back))),
        *(step for n in range(8) for step in timeline(f"new{n}", ("b", 1, new))),
    ]
    temporal = replace(settings, split="temporal", validation_share=0.2, test_share=0.15)
    with pytest.raises(
        TapestryError,
        match=rf"no {name} interaction is left .* had 8 interactions; filtered were 8 of users "
        rf"without an interaction in the training period\. Raise sessionize\.{name}_share \(now 0\.\d+\)$",
    ):
        sessionized(tmp_path, interactions, temporal)
    assert not (tmp_path / "sequences").exists()


def test_a_split_whose_users_were_filtered_names_the_rule_that_took_them(
    settings: SessionizeSettings, tmp_path: Path
) -> None:
    """In the test period come one who was filtered in training for one domain, and one with an item unknown there."""
    interactions = [
        *(step for n in range(4) for step in timeline(f"u{n}", ("a", 0, 1), ("b", 1, 1), ("c", 0, 1), ("b", 1, 5))),
        *timeline("v", ("a", 0, 1), ("a", 0, 2), ("a", 0, 3), ("a", 0, 9), ("a", 0, 10), ("a", 0, 11)),
        *timeline("u1", ("new", 0, 9)),
    ]
    temporal = replace(
        settings, split="temporal", min_user_interactions=1, min_domains=2, validation_share=0.15, test_share=0.1
    )
    with pytest.raises(TapestryError) as caught:
        sessionized(tmp_path, interactions, temporal)
    assert str(caught.value) == (
        "sessionize: no test interaction is left with a history before it. The test period, from 1970-01-10, had 4 "
        "interactions; filtered were 3 of users who were filtered in the training period, 1 of items without an "
        "interaction in the training period. Lower sessionize.min_domains (now 2)"
    )


def test_a_period_that_begins_with_the_next_is_told(settings: SessionizeSettings, tmp_path: Path) -> None:
    interactions = [
        *(step for n in range(4) for step in timeline(f"u{n}", ("a", 0, 1), ("b", 1, 2), ("a", 0, 3), ("b", 1, 3))),
    ]
    temporal = replace(settings, split="temporal", min_user_interactions=1, validation_share=0.1, test_share=0.2)
    with pytest.raises(TapestryError) as caught:
        sessionized(tmp_path, interactions, temporal)
    assert str(caught.value) == (
        "sessionize: no validation interaction is left with a history before it. The validation period, from "
        "1970-01-04, had 0 interactions, as the test period begins at the same time. Raise sessionize.validation_share "
        "(now 0.1)"
    )


def test_counts_of_another_run_of_ingest_are_refused(settings: SessionizeSettings, tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path, timeline("u", ("a", 0, 1), ("b", 1, 2), ("a", 0, 3)), domains=2)
    counts = json.loads(inputs["Books"].counts.read_text())
    inputs["Books"].counts.write_text(json.dumps(counts | {"rows_in": counts["rows_in"] + 1}))
    with pytest.raises(TapestryError, match=r"Books: 5 rows in, but 4 kept, quarantined or filtered; .* repeat ingest"):
        sessionize(inputs, settings, tmp_path / "sequences")
    assert not (tmp_path / "sequences").exists()


def test_a_memory_limit_that_is_no_amount_is_refused(settings: SessionizeSettings, tmp_path: Path) -> None:
    interactions = timeline("u", ("a", 0, 1), ("b", 1, 2), ("a", 0, 3))
    with pytest.raises(TapestryError, match="memory_limit: 'plenty' is not a size such as 2GB"):
        sessionized(tmp_path, interactions, replace(settings, memory_limit="plenty"))


def test_too_little_memory_is_an_error_that_says_so(settings: SessionizeSettings, tmp_path: Path) -> None:
    with pytest.raises(TapestryError, match=r"memory_limit: 1MB is too little here for \d threads; raise it"):
        sessionized(tmp_path, shoppers(5000), replace(settings, memory_limit="1MB"))
    assert not (tmp_path / "sequences").exists()


# Ties.


def shoppers(count: int) -> list[Interaction]:
    """Users who buy on four days, in both domains on each of the middle two; rows in no order."""
    generator = random.Random(7)
    rows = generator.sample(range(1, 6 * count + 1), 6 * count)
    days = [0, 1, 1, 2, 2, 3]
    return [
        Interaction(f"u{user:03}", f"{'ab'[k % 2]}{generator.randrange(5)}", k % 2, days[k], rows.pop())
        for user in range(count)
        for k in range(6)
    ]


def by_day(steps: list[tuple[int, str]]) -> dict[int, list[str]]:
    days: dict[int, list[str]] = defaultdict(list)
    for day, item in steps:
        days[day].append(item)
    return days


def test_another_seed_changes_the_order_inside_ties_and_only_there(
    settings: SessionizeSettings, tmp_path: Path
) -> None:
    interactions = shoppers(100)
    one, two = (
        sessionized(tmp_path / str(seed), interactions, replace(settings, seed=seed)).timelines() for seed in (1, 2)
    )
    assert one != two
    assert one.keys() == two.keys()
    assert all(sorted(one[user]) == sorted(two[user]) for user in one)
    for timelines in (one, two):
        assert all([day for day, _ in steps] == [0, 1, 1, 2, 2, 3] for steps in timelines.values())


def test_inside_ties_no_domain_or_item_comes_first_by_rule_and_rows_do_not_matter(
    settings: SessionizeSettings, tmp_path: Path
) -> None:
    interactions = shoppers(300)
    timelines = sessionized(tmp_path / "a", interactions, settings).timelines()
    ties = [items for steps in timelines.values() for items in by_day(steps).values() if len(items) == 2]
    assert len(ties) == 600
    assert 250 < sum(first < second for first, second in ties) < 350
    turned = [i._replace(row=2000 - i.row) for i in interactions]
    assert sessionized(tmp_path / "b", turned, settings).timelines() == timelines


def test_ties_by_row_follow_the_raw_file(settings: SessionizeSettings, tmp_path: Path) -> None:
    interactions = shoppers(100)
    timelines = sessionized(tmp_path, interactions, replace(settings, ties="row")).timelines()
    rows = {(i.user, i.day, i.item): i.row for i in interactions}
    for user, steps in timelines.items():
        places = [(day, rows[user, day, item]) for day, item in steps]
        assert places == sorted(places)


# The same bytes every time.


def test_the_same_interactions_give_the_same_bytes_at_any_number_of_threads(
    settings: SessionizeSettings, tmp_path: Path
) -> None:
    inputs = write_inputs(tmp_path, shoppers(1000), domains=2)
    hashes, metrics = set(), []
    for run, threads in enumerate((1, 1, 2, 4)):
        out = tmp_path / f"run{run}"
        metrics.append(sessionize(inputs, replace(settings, threads=threads), out))
        hashes.add(content_hash(out))
    assert len(hashes) == 1
    assert metrics[1:] == metrics[:1] * 3


def test_the_same_interactions_give_the_same_bytes_when_they_do_not_fit_in_memory(
    parameters: Parameters, tmp_path: Path
) -> None:
    generator = np.random.default_rng(7)
    inputs = {}
    for name in DOMAINS:
        numbers = generator.integers(0, [[30_000], [2_000], [3_000]], (3, 150_000))
        columns = {
            "user_id": [f"user{number:020}" for number in numbers[0]],
            "item_id": [f"{name}{number:020}" for number in numbers[1]],
            "timestamp": numbers[2] * DAY,
            "row": np.arange(1, 150_001),
        }
        inputs[name] = DomainInput(tmp_path / f"{name}.parquet", tmp_path / f"{name}.json")
        pq.write_table(pa.table(columns), inputs[name].interactions)
        counts = {"rows_in": 150_000, "rows_quarantined": 0, "rows_duplicate": 0, "reasons": {}}
        inputs[name].counts.write_text(json.dumps(counts))
    hashes = set()
    for limit in ("2GB", "75MB"):
        out = tmp_path / limit
        sessionize(inputs, replace(parameters.sessionize, memory_limit=limit), out)
        hashes.add(content_hash(out))
    assert len(hashes) == 1


# Real interactions.


@pytest.mark.real_data
def test_the_six_real_domains_have_the_figures_known_of_them(
    parameters: Parameters, six_domains: dict[str, DomainInput], tmp_path: Path
) -> None:
    metrics = sessionize(six_domains, parameters.sessionize, tmp_path / "sequences")
    result = read_result(tmp_path / "sequences", metrics)
    whole = metrics["all"]
    assert (whole["users"], whole["items"], whole["interactions"]) == (8278, 15_378, 212_897)
    assert whole["delta"] == pytest.approx(0.466, abs=5e-4)
    assert whole["tied_pairs"] == pytest.approx(0.31, abs=5e-3)
    assert whole["rows_in"] == 726_125 == whole["rows_kept"] + whole["rows_filtered"]
    assert {domain: of_domain["interactions"] for domain, of_domain in metrics["domain"].items()} == {
        "Beauty": 41_612,
        "Electronics": 32_951,
        "Grocery_and_Gourmet_Food": 49_643,
        "Home_and_Kitchen": 49_643,
        "Sports_and_Outdoors": 13_324,
        "Toys_and_Games": 25_724,
    }
    lengths = [length for *_, length in result.users]
    assert (statistics.median(lengths), max(lengths)) == (13, 278)
    active: dict[int, set[int]] = defaultdict(set)
    for user, _, _, domain, _, _ in result.sequences:
        active[user].add(domain)
    assert Counter(map(len, active.values())) == {2: 4567, 3: 1691, 4: 888, 5: 680, 6: 452}
