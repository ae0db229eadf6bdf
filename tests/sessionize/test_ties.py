"""The order of interactions with equal timestamps."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from interactions import SETTINGS, sessionized, shoppers


def by_day(steps: list[tuple[int, str]]) -> dict[int, list[str]]:
    days: dict[int, list[str]] = defaultdict(list)
    for day, item in steps:
        days[day].append(item)
    return days


def test_another_seed_changes_only_the_order_of_ties(tmp_path: Path) -> None:
    interactions = shoppers(100)
    one, two = (
        sessionized(tmp_path / str(seed), interactions, replace(SETTINGS, seed=seed)).timelines() for seed in (1, 2)
    )
    assert one != two
    assert one.keys() == two.keys()
    assert all(sorted(one[user]) == sorted(two[user]) for user in one)
    for timelines in (one, two):
        assert all([day for day, _ in steps] == [0, 1, 1, 2, 2, 3] for steps in timelines.values())


def test_ties_prefer_no_domain_or_item_and_ignore_the_raw_rows(tmp_path: Path) -> None:
    interactions = shoppers(300)
    timelines = sessionized(tmp_path / "a", interactions, SETTINGS).timelines()
    ties = [items for steps in timelines.values() for items in by_day(steps).values() if len(items) == 2]
    assert len(ties) == 600
    assert 250 < sum(first < second for first, second in ties) < 350
    reordered = [i._replace(row=2000 - i.row) for i in interactions]
    assert sessionized(tmp_path / "b", reordered, SETTINGS).timelines() == timelines


def test_ties_by_row_follow_the_raw_file(tmp_path: Path) -> None:
    interactions = shoppers(100)
    timelines = sessionized(tmp_path, interactions, replace(SETTINGS, ties="row")).timelines()
    rows = {(i.user, i.day, i.item): i.row for i in interactions}
    for user, steps in timelines.items():
        order = [(day, rows[user, day, item]) for day, item in steps]
        assert order == sorted(order)
