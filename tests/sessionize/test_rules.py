"""Random interactions: sessionize writes the sequences, or raises the error, that the rules in plain Python give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interactions import SETTINGS, Interaction, filters, sessionized
from oracles.sessionize import ExpectedError, expected_result

from tapestry.core.errors import TapestryError
from tapestry.sessionize.settings import SessionizeSettings


@st.composite
def interactions_of(draw: st.DrawFn, domains: int) -> list[Interaction]:
    """A few users and items, many on the same day, two items claimed by every domain, two users of one domain."""
    user_and_domain = st.sampled_from(
        [
            ("u1", 0),
            ("U2", min(1, domains - 1)),
            *((user, domain) for user in ("é", "a", "u10", "Z") for domain in range(domains)),
        ]
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


cases = st.integers(1, 3).flatmap(lambda domains: st.tuples(interactions_of(domains), st.just(domains)))


shares = st.sampled_from([0.1, 0.2, 0.25, 0.3])


def given_positions(interactions: list[Interaction], first_validation: int, first_test: int) -> list[Interaction]:
    """The interactions with positions that differ, and the split that two positions begin."""
    return [
        i._replace(position=7 * i.row, split=(i.row >= first_validation) + (i.row >= first_test)) for i in interactions
    ]


def assert_follows_the_rules(
    folder: Path, interactions: list[Interaction], settings: SessionizeSettings, domains: int
) -> None:
    settings = replace(settings, min_domains=min(settings.min_domains, domains))  # more are an error of their own
    try:
        expected = expected_result(interactions, settings, domains)
    except ExpectedError as expected_error:
        with pytest.raises(TapestryError, match=str(expected_error)):
            sessionized(folder, interactions, settings, domains)
        assert not any(path.is_dir() for path in folder.iterdir())
    else:
        assert sessionized(folder, interactions, settings, domains) == expected


@hypothesis.settings(max_examples=12, deadline=None)
@given(case=cases, values=filters)
def test_leave_one_out_follows_the_rules(
    tmp_path_factory: pytest.TempPathFactory,
    case: tuple[list[Interaction], int],
    values: dict[str, Any],
) -> None:
    assert_follows_the_rules(tmp_path_factory.mktemp("loo"), case[0], replace(SETTINGS, **values), case[1])


@hypothesis.settings(max_examples=12, deadline=None)
@given(case=cases, values=filters, validation_share=shares, test_share=shares)
def test_the_temporal_split_follows_the_rules(
    tmp_path_factory: pytest.TempPathFactory,
    case: tuple[list[Interaction], int],
    values: dict[str, Any],
    validation_share: float,
    test_share: float,
) -> None:
    values |= {"min_user_interactions": values["min_user_interactions"] - 2}
    temporal = replace(SETTINGS, split="temporal", validation_share=validation_share, test_share=test_share, **values)
    assert_follows_the_rules(tmp_path_factory.mktemp("temporal"), case[0], temporal, case[1])


@hypothesis.settings(max_examples=12, deadline=None)
@given(case=cases, values=filters)
def test_leave_one_out_by_domain_follows_the_rules(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[list[Interaction], int], values: dict[str, Any]
) -> None:
    by_domain = replace(SETTINGS, split="leave_one_out_by_domain", **values)
    assert_follows_the_rules(tmp_path_factory.mktemp("by_domain"), case[0], by_domain, case[1])


@hypothesis.settings(max_examples=15, deadline=None)
@given(case=cases, values=filters, order=st.sampled_from(["time", "given"]))
def test_truncation_before_the_filters_follows_the_rules(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[list[Interaction], int], values: dict[str, Any], order: Any
) -> None:
    settings = replace(SETTINGS, **values, truncate="before", order=order)
    assert_follows_the_rules(tmp_path_factory.mktemp("before"), given_positions(case[0], 1, 1), settings, case[1])


@hypothesis.settings(max_examples=15, deadline=None)
@given(
    case=cases,
    values=filters,
    order=st.sampled_from(["time", "given"]),
    truncate=st.sampled_from(["before", "after"]),
    starts=st.tuples(st.integers(15, 35), st.integers(0, 30)),
)
def test_a_given_split_follows_the_rules(
    tmp_path_factory: pytest.TempPathFactory,
    case: tuple[list[Interaction], int],
    values: dict[str, Any],
    order: Any,
    truncate: Any,
    starts: tuple[int, int],
) -> None:
    values |= {"min_user_interactions": values["min_user_interactions"] - 2}
    settings = replace(SETTINGS, **values, split="given", order=order, truncate=truncate)
    interactions = given_positions(case[0], starts[0], sum(starts))
    assert_follows_the_rules(tmp_path_factory.mktemp("given"), interactions, settings, case[1])
