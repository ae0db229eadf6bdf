"""Filters, orders and splits as papers publish them, by hand-computed cases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from interactions import SETTINGS, Interaction, Result, sessionized, timeline

from tapestry.core.errors import TapestryError
from tapestry.sessionize.settings import SessionizeSettings


def users(result: Result) -> list[str]:
    return [user_id for _, user_id, _, _ in result.users]


def test_an_item_of_two_domains_is_dropped_from_both(tmp_path: Path) -> None:
    steps = ("both", 0, 1), ("a", 0, 2), ("both", 0, 3), ("both", 1, 4), ("b", 1, 5), ("a", 0, 6)
    owner = sessionized(tmp_path / "owner", timeline("u", *steps), SETTINGS)
    drop = sessionized(tmp_path / "drop", timeline("u", *steps), replace(SETTINGS, contested_items="drop"))
    assert [item for _, item in owner.timelines()["u"]] == ["both", "a", "both", "b", "a"]
    assert [item for _, item in drop.timelines()["u"]] == ["a", "b", "a"]
    assert [drop.metrics["domain"][name]["filtered"]["item of another domain"] for name in ("Toys", "Books")] == [2, 1]


def test_a_domain_counts_from_the_wanted_number_of_interactions_on(tmp_path: Path) -> None:
    settings = replace(SETTINGS, min_domains=2, min_user_domain_interactions=2)
    interactions = [
        *timeline("two and two", ("a", 0, 1), ("b", 1, 2), ("a", 0, 3), ("b", 1, 4)),
        *timeline("three and one", ("a", 0, 1), ("a", 0, 2), ("a", 0, 3), ("b", 1, 4)),
    ]
    assert users(sessionized(tmp_path, interactions, settings)) == ["two and two"]


CHAIN = [  # without "short", item r is too rare, and without r "later" is too short
    *timeline("short", ("r", 1, 1), ("a", 0, 2)),
    *timeline("later", ("r", 1, 1), ("a", 0, 2), ("b", 1, 3)),
    *(step for name in ("x", "y") for step in timeline(name, ("a", 0, 1), ("b", 1, 2), ("a", 0, 3))),
]


@pytest.mark.parametrize(("k_core", "left"), [("iterated", ["x", "y"]), ("once", ["later", "x", "y"])])
def test_once_counts_nothing_again(tmp_path: Path, k_core: str, left: list[str]) -> None:
    settings = replace(SETTINGS, min_item_interactions=2, k_core=k_core)  # type: ignore[arg-type]
    result = sessionized(tmp_path, CHAIN, settings)
    assert users(result) == left
    assert ("r" in {item_id for _, item_id, _, _ in result.items}) == (k_core == "once")


ABXI = replace(
    SETTINGS,
    contested_items="drop",
    min_user_interactions=4,
    min_user_domain_interactions=2,
    min_domains=2,
    min_item_interactions=2,
    max_length=4,
    k_core="once",
    truncate="before",
)
"""The order of ABXI (arXiv 2501.15118), with smaller bounds: items of both domains, users of one domain, rare items,
the last 4 of each user, then users with fewer than 2 of these in a domain."""


def test_the_filters_of_abxi_in_their_order(tmp_path: Path) -> None:
    old = [("a", 0, 1), ("a", 0, 2)]
    interactions = [
        *timeline("kept", *old, ("a", 0, 3), ("rare", 0, 4), ("b", 1, 5), ("a", 0, 6), ("b", 1, 7)),
        # 3 of domain 0, of which only the last is among the last 4
        *timeline("cut", *old, ("b", 1, 3), ("b", 1, 4), ("b", 1, 5), ("a", 0, 6)),
        *timeline("one domain", ("rare", 0, 1), ("a", 0, 2), ("a", 0, 3), ("a", 0, 4)),
        *timeline("shared", ("both", 0, 1), ("both", 1, 2), ("a", 0, 3), ("b", 1, 4), ("b", 1, 5), ("b", 1, 6)),
    ]
    result = sessionized(tmp_path, interactions, ABXI)
    # "rare" has two interactions, but one of them is of a user of one domain, who goes first.
    assert result.timelines() == {"kept": [(3, "a"), (5, "b"), (6, "a"), (7, "b")]}
    filtered = {name: row["filtered"] for name, row in result.metrics["domain"].items()}
    assert filtered["Toys"]["older than max_length"] == 2 + 2
    assert filtered["Toys"]["item of another domain"] == 1
    assert filtered["Toys"]["too few interactions or domains"] == 1 + 4 + 1 + 1


def test_a_given_order_counts_over_all_domains_and_against_the_times(tmp_path: Path) -> None:
    interactions = [
        Interaction("u", "a", 0, day=9, row=1, position=10),
        Interaction("u", "b", 1, day=1, row=1, position=30),
        Interaction("u", "c", 0, day=5, row=2, position=20),
        Interaction("u", "d", 1, day=9, row=2, position=40),
    ]
    given = sessionized(tmp_path / "given", interactions, replace(SETTINGS, order="given"))
    assert [item for _, item in given.timelines()["u"]] == ["a", "c", "b", "d"]
    assert [split for *_, split in given.sequences] == [0, 0, 1, 2]
    last = sessionized(tmp_path / "last", interactions, replace(SETTINGS, order="given", max_length=3))
    assert [item for _, item in last.timelines()["u"]] == ["c", "b", "d"]


def test_a_given_split_is_taken_as_it_is(tmp_path: Path) -> None:
    splits = [0, 0, 1, 1, 2]
    steps = timeline("u", *((f"{number}", number % 2, number) for number in range(5)))
    interactions = [step._replace(split=split) for step, split in zip(steps, splits, strict=True)]
    result = sessionized(tmp_path, interactions, replace(SETTINGS, split="given"))
    assert [split for *_, split in result.sequences] == splits


def test_the_last_of_each_domain_with_three_interactions_is_a_target(tmp_path: Path) -> None:
    domains = [0, 1, 0, 0, 1, 2, 1, 1, 2]
    steps = timeline("u", *((f"{domain}{number}", domain, number) for number, domain in enumerate(domains)))
    result = sessionized(tmp_path, steps, replace(SETTINGS, split="leave_one_out_by_domain"), domains=3)
    assert [split for *_, split in result.sequences] == [0, 0, 1, 2, 0, 0, 1, 2, 0]


def test_a_given_split_orders_what_is_tied(tmp_path: Path) -> None:
    """Whatever the hashes, the test interaction of a day comes after those of validation and training."""
    interactions = [
        step._replace(split=split)
        for number in range(20)
        for step, split in zip(
            timeline(f"u{number}", (f"x{number}", 0, 1), (f"y{number}", 1, 1), (f"z{number}", 0, 1)),
            (2, 0, 1),
            strict=True,
        )
    ]
    result = sessionized(tmp_path, interactions, replace(SETTINGS, split="given"))
    assert {tuple(item[0] for _, item in steps) for steps in result.timelines().values()} == {("y", "z", "x")}


STEPS = timeline("u", ("a", 0, 1), ("b", 1, 2), ("a", 0, 3), ("b", 1, 4))


@pytest.mark.parametrize(
    ("changes", "positions", "splits", "message"),
    [
        ({"order": "given"}, [1, 2, 2, 3], [0, 0, 0, 0], r"user_id 'u' has 2 interactions at position 2: .*raw files"),
        (
            {"split": "given"},
            [1, 2, 3, 4],
            [0, 2, 1, 2],
            r"user_id 'u' has one of validation at position 2, after one of test: .*column split",
        ),
        ({"split": "given"}, [1, 2, 3, 4], [0, 0, 0, 2], "given, but no interaction of validation that has an earlier"),
        ({"split": "given"}, [1, 2, 3, 4], [0, 0, 1, 1], "given, but no interaction of test that has an earlier"),
    ],
)
def test_a_given_order_or_split_that_contradicts_itself_is_an_error(
    tmp_path: Path, changes: dict[str, str], positions: list[int], splits: list[int], message: str
) -> None:
    interactions = [
        step._replace(position=position, split=split)
        for step, position, split in zip(STEPS, positions, splits, strict=True)
    ]
    settings: SessionizeSettings = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    with pytest.raises(TapestryError, match=message):
        sessionized(tmp_path, interactions, settings)
