"""The temporal split applies the rules to the training period only."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interactions import SETTINGS, Interaction, filters, sessionized, timeline
from oracles.sessionize import period_starts


def test_max_length_limits_the_training_period_and_keeps_all_later_interactions(tmp_path: Path) -> None:
    """Each of 10 users has 5 interactions in the training period, 1 in validation and 4 in test."""
    days = [1, 2, 3, 4, 5, 6, 8, 8, 8, 9]
    interactions = [
        step
        for n in range(10)
        for step in timeline(f"u{n}", *(("ab"[k % 2], k % 2, day) for k, day in enumerate(days)))
    ]
    temporal = replace(SETTINGS, split="temporal", max_length=3, validation_share=0.1, test_share=0.35)
    result = sessionized(tmp_path, interactions, temporal)
    assert [[day for day, _ in steps] for steps in result.timelines().values()] == [days[2:]] * 10
    assert [split for *_, split in result.sequences] == [0, 0, 0, 1, 2, 2, 2, 2] * 10
    assert sum(row["filtered"]["older than max_length"] for row in result.metrics["domain"].values()) == 20


def some_interactions(generator: random.Random, count: int, domains: int, day: int) -> list[Interaction]:
    """Random interactions of one day: 8 users, and 6 items per domain, 3 of them shared by all domains."""
    made: set[Interaction] = set()
    while len(made) < count:
        user, item, domain = f"u{generator.randrange(8)}", generator.randrange(6), generator.randrange(domains)
        made.add(Interaction(user, f"{item}" if item < 3 else f"{domain}{item}", domain, day, 1))
    return sorted(made)


@hypothesis.settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), values=filters, domains=st.integers(2, 3), more=st.integers(-20, 12))
def test_later_interactions_do_not_change_which_training_interactions_are_kept(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    values: dict[str, Any],
    domains: int,
    more: int,
) -> None:
    """The later interactions are replaced by others, more or fewer, so that the periods begin on the same days."""
    values = values | {"max_contested_share": 1.0, "min_domains": 1, "min_user_interactions": 3}
    temporal = replace(SETTINGS, split="temporal", validation_share=0.15, test_share=0.1, **values)
    generator = random.Random(seed)
    training = [i for day in range(6) for i in some_interactions(generator, 20, domains, day)]
    training_interactions = []
    for count in (40, 40 + more):
        later = [i for day, rows in ((6, 40), (7, count)) for i in some_interactions(generator, rows, domains, day)]
        assert period_starts(training + later, temporal) == (6, 7)
        result = sessionized(tmp_path_factory.mktemp("later"), training + later, temporal, domains)
        names = {item: item_id for item, item_id, _, _ in result.items}
        training_interactions.append(
            [
                (result.users[user][1], names[item], domain, time, position)
                for user, position, item, domain, time, split in result.sequences
                if split == 0
            ]
        )
    assert training_interactions[0]
    assert training_interactions[0] == training_interactions[1]
