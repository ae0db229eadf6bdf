"""Filtering that leaves a domain or a split empty is an error that names the rule and the parameter to change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from interactions import SETTINGS, sessionized, timeline

from tapestry.core.errors import TapestryError


def test_a_domain_without_users_is_an_error_that_names_it_and_keeps_the_old_folder(tmp_path: Path) -> None:
    interactions = [
        *timeline("u", ("a", 0, 1), ("a", 0, 2), ("a", 0, 3)),
        *timeline("v", ("b", 1, 1)),
    ]
    old = tmp_path / "sequences" / "old"
    old.parent.mkdir()
    old.touch()
    with pytest.raises(
        TapestryError, match=r"no user remains in Books after filtering\. Books: 1 interactions .*min_user"
    ):
        sessionized(tmp_path, interactions, SETTINGS)
    assert list(old.parent.iterdir()) == [old]
    assert not list(tmp_path.glob("*.partial"))


def test_a_domain_that_only_max_length_empties_is_an_error_that_names_it(tmp_path: Path) -> None:
    interactions = timeline("u", ("b", 1, 1), ("a", 0, 2), ("a", 0, 3), ("a", 0, 4))
    with pytest.raises(TapestryError, match="no user remains in Books after filtering"):
        sessionized(tmp_path, interactions, replace(SETTINGS, max_length=3))


def test_the_error_lists_what_each_rule_filtered_and_names_the_parameter_of_the_largest(tmp_path: Path) -> None:
    """In Books the rules filter 2 interactions of a short user, then 6 of rare items and the last one of "w"."""
    interactions = [
        *(step for n in range(5) for step in timeline(f"u{n}", ("a", 0, 1), ("a", 0, 2), ("c", 2, 3))),
        *timeline("v", ("b", 1, 1), ("b", 1, 2)),
        *timeline("w", ("c", 2, 1), ("b", 1, 2), *((f"b{n}", 1, 3 + n) for n in range(6))),
    ]
    changed = replace(SETTINGS, min_domains=2, min_item_interactions=2)
    with pytest.raises(TapestryError) as caught:
        sessionized(tmp_path, interactions, changed, domains=3)
    assert str(caught.value) == (
        "sessionize: no user remains in Books after filtering. Books: 9 interactions of 2 users before filtering. "
        "Filtered: 2 of users with fewer than 3 interactions (users removed: 1), 7 of items with fewer than 2 "
        "interactions (users removed: 1). Lower sessionize.min_item_interactions (now 2). Or remove Books from "
        "source.domains"
    )


def test_if_all_domains_are_empty_the_error_describes_them_together(tmp_path: Path) -> None:
    interactions = [*timeline("u", *(("a", 0, n) for n in range(5))), *timeline("v", *(("b", 1, n) for n in range(4)))]
    with pytest.raises(TapestryError) as caught:
        sessionized(tmp_path, interactions, replace(SETTINGS, min_domains=2))
    assert str(caught.value) == (
        "sessionize: no user remains in Toys, Books after filtering. All domains: 9 interactions of 2 users before "
        "filtering. Filtered: 9 of users with fewer than 2 domains (users removed: 2). Lower sessionize.min_domains "
        "(now 2)."
    )


def test_more_domains_wanted_than_there_are_is_an_error_before_any_filter(tmp_path: Path) -> None:
    interactions = timeline("u", ("a", 0, 1), ("b", 0, 2), ("c", 0, 3))
    with pytest.raises(
        TapestryError,
        match=r"^sessionize\.min_domains: 2 is above 1, the number of domains in source\.domains, .* to 1 or less$",
    ):
        sessionized(tmp_path, interactions, replace(SETTINGS, min_domains=2), domains=1)


@pytest.mark.parametrize(("min_domains", "suggested"), [(1, True), (2, False)])
def test_a_domain_is_to_be_removed_only_if_enough_are_left(tmp_path: Path, min_domains: int, suggested: bool) -> None:
    interactions = [*timeline("u", ("a", 0, 1), ("b", 0, 2), ("a", 0, 3)), *timeline("v", ("c", 1, 1), ("c", 1, 2))]
    with pytest.raises(TapestryError, match=r"no user remains in .*Books") as caught:
        sessionized(tmp_path, interactions, replace(SETTINGS, min_domains=min_domains))
    assert str(caught.value).endswith(" Or remove Books from source.domains") == suggested


@pytest.mark.parametrize("name", ["validation", "test"])
def test_a_split_without_targets_is_an_error_that_names_its_share(tmp_path: Path, name: str) -> None:
    """All training interactions are on day 1. No user of that day returns in the period."""
    came_back, new = {"validation": (9, 5), "test": (5, 9)}[name]
    interactions = [
        *(step for n in range(8) for step in timeline(f"u{n}", ("a", 0, 1), ("b", 1, 1), ("c", 0, 1))),
        *(step for n in range(8) for step in timeline(f"u{n}", ("a", 0, came_back))),
        *(step for n in range(8) for step in timeline(f"new{n}", ("b", 1, new))),
    ]
    temporal = replace(SETTINGS, split="temporal", validation_share=0.2, test_share=0.15)
    with pytest.raises(
        TapestryError,
        match=rf"the {name} split has no target: .* had 8 interactions\. Filtered: 8 of users "
        rf"without an interaction in the training period\. Raise sessionize\.{name}_share \(now 0\.\d+\)$",
    ):
        sessionized(tmp_path, interactions, temporal)
    assert not (tmp_path / "sequences").exists()


def test_a_split_whose_users_were_filtered_names_the_rule_that_filtered_them(tmp_path: Path) -> None:
    """The test period has a user who was filtered out of training (one domain only), and an item new to it."""
    interactions = [
        *(step for n in range(4) for step in timeline(f"u{n}", ("a", 0, 1), ("b", 1, 1), ("c", 0, 1), ("b", 1, 5))),
        *timeline("v", ("a", 0, 1), ("a", 0, 2), ("a", 0, 3), ("a", 0, 9), ("a", 0, 10), ("a", 0, 11)),
        *timeline("u1", ("new", 0, 9)),
    ]
    temporal = replace(
        SETTINGS, split="temporal", min_user_interactions=1, min_domains=2, validation_share=0.15, test_share=0.1
    )
    with pytest.raises(TapestryError) as caught:
        sessionized(tmp_path, interactions, temporal)
    assert str(caught.value) == (
        "sessionize: the test split has no target: after filtering, no interaction of the test period has an earlier "
        "interaction of its user. The test period begins on 1970-01-10 and had 4 interactions. Filtered: 3 of users "
        "who were filtered out of the training period, 1 of items without an interaction in the training period. Lower "
        "sessionize.min_domains (now 2)"
    )


def test_an_empty_period_between_two_equal_starts_is_an_error_that_says_so(tmp_path: Path) -> None:
    interactions = [
        *(step for n in range(4) for step in timeline(f"u{n}", ("a", 0, 1), ("b", 1, 2), ("a", 0, 3), ("b", 1, 3))),
    ]
    temporal = replace(SETTINGS, split="temporal", min_user_interactions=1, validation_share=0.1, test_share=0.2)
    with pytest.raises(TapestryError) as caught:
        sessionized(tmp_path, interactions, temporal)
    assert str(caught.value) == (
        "sessionize: the validation split has no target: after filtering, no interaction of the validation period has "
        "an earlier interaction of its user. The validation period begins on 1970-01-04 and had 0 interactions, "
        "because the test period begins at the same time. Raise sessionize.validation_share (now 0.1)"
    )
