"""The k-core removes users with too few interactions or domains and rare items, until nothing changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from interactions import SETTINGS, sessionized, timeline


def test_users_of_fewer_than_3_interactions_are_filtered_and_counted(tmp_path: Path) -> None:
    interactions = [
        *timeline("three", ("a", 0, 1), ("b", 1, 2), ("a", 0, 3)),
        *timeline("two", ("a", 0, 1), ("b", 1, 2)),
        *timeline("one", ("b", 1, 1)),
    ]
    result = sessionized(tmp_path, interactions, SETTINGS)
    assert [user_id for _, user_id, _, _ in result.users] == ["three"]
    assert [split for *_, split in result.sequences] == [0, 1, 2]
    for name, count in (("Toys", 1), ("Books", 2)):
        assert result.metrics["domain"][name]["filtered"]["too few interactions or domains"] == count


def test_users_of_fewer_domains_than_asked_for_are_filtered(tmp_path: Path) -> None:
    interactions = [
        *timeline("both", ("a", 0, 1), ("a", 0, 2), ("b", 1, 3)),
        *timeline("one", ("a", 0, 1), ("a", 0, 2), ("a", 0, 3)),
    ]
    result = sessionized(tmp_path, interactions, replace(SETTINGS, min_domains=2))
    assert [user_id for _, user_id, _, _ in result.users] == ["both"]


@pytest.mark.parametrize("chained", [1, 2, 3, 8])
def test_filtering_is_repeated_until_it_changes_nothing(chained: int, tmp_path: Path) -> None:
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
    result = sessionized(tmp_path, interactions, replace(SETTINGS, min_item_interactions=2))
    assert [user_id for _, user_id, _, _ in result.users] == ["x", "y"]
    assert [item_id for _, item_id, _, _ in result.items] == ["a", "b"]
