"""An item_id in several domains: one item that one domain owns, or an item of each domain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from interactions import SETTINGS, Interaction, sessionized, timeline

from tapestry.core.errors import TapestryError
from tapestry.sessionize.sessionize import contested_interactions


def separately_numbered(users: int) -> list[Interaction]:
    """Each domain numbers its items from 1; Books has twice as many interactions as Toys."""
    return [
        step
        for n in range(users)
        for step in timeline(f"u{n}", ("1", 0, 1), ("1", 1, 1), ("2", 1, 2), ("2", 0, 3), ("1", 1, 4), ("1", 1, 5))
    ]


def test_domains_that_number_their_own_items_are_an_error_that_names_rule_share_and_parameters(tmp_path: Path) -> None:
    interactions = [*separately_numbered(5), *timeline("v", ("3", 0, 1), ("4", 1, 2), ("3", 0, 3))]
    with pytest.raises(TapestryError) as caught:
        sessionized(tmp_path, interactions, replace(SETTINGS, max_contested_share=0.05))
    assert str(caught.value) == (
        'sessionize: the rule "item of another domain" would filter 10 of 33 interactions (30.3%), by domain: Toys 5 '
        "of 12 (41.7%), Books 5 of 21 (23.8%). sessionize.max_contested_share allows 0.05 of a domain's. With "
        "sessionize.item_identity: global an item_id names the same item in all domains, and belongs to the domain "
        "with most of its interactions. If each domain numbers its own items, set sessionize.item_identity to domain; "
        "to filter them all the same, raise sessionize.max_contested_share to 0.417"
    )
    assert not (tmp_path / "sequences").exists()
    assert sessionized(tmp_path, interactions, replace(SETTINGS, max_contested_share=0.417)).metrics["all"]


def test_with_item_identity_domain_equal_ids_are_different_items(tmp_path: Path) -> None:
    result = sessionized(
        tmp_path, separately_numbered(5), replace(SETTINGS, item_identity="domain", max_contested_share=0.0)
    )
    assert [(item_id, domain) for _, item_id, domain, _ in result.items] == [("1", 0), ("2", 0), ("1", 1), ("2", 1)]
    assert result.metrics["all"]["interactions"] == 30
    assert contested_interactions(result.metrics) is None


def test_few_contested_interactions_give_a_line_for_the_console(tmp_path: Path) -> None:
    interactions = [*separately_numbered(5), *timeline("v", ("3", 0, 1), ("4", 1, 2), ("3", 0, 3))]
    metrics = sessionized(tmp_path, interactions, SETTINGS).metrics
    assert contested_interactions(metrics) == (
        "item of another domain: 10 of 33 interactions filtered (30.30%; Toys 5, Books 5); if each domain numbers its "
        "own items, set sessionize.item_identity to domain"
    )


def test_tied_items_with_one_id_have_no_preferred_domain(tmp_path: Path) -> None:
    interactions = [
        step for n in range(300) for step in timeline(f"u{n}", ("1", 0, 1), ("1", 1, 1), ("2", 0, 2), ("2", 1, 3))
    ]
    by_domain = replace(SETTINGS, item_identity="domain")
    result = sessionized(tmp_path / "a", interactions, by_domain)
    firsts = [domain for _, position, _, domain, _, _ in result.sequences if position == 0]
    assert 120 < sum(firsts) < 180
    reordered = [i._replace(row=1000 - i.row) for i in reversed(interactions)]
    assert sessionized(tmp_path / "b", reordered, by_domain).sequences == result.sequences


def test_the_temporal_split_counts_the_owner_in_the_training_period(tmp_path: Path) -> None:
    """Toys has 4 training interactions of x, Books 2 and 30 in the test period. y occurs only in the test period."""
    interactions = [
        *(step for n in range(4) for step in timeline(f"u{n}", ("x", 0, 1), ("b", 1, 2), ("a", 0, 3), ("b", 1, 4))),
        *(step for n in range(2) for step in timeline(f"u{n}", ("x", 1, 3))),
        *(step for n in range(4) for step in timeline(f"u{n}", ("a", 0, 5), ("b", 1, 6))),
        *(step for n in range(30) for step in timeline(f"v{n}", ("x", 1, 6), ("y", 1, 6), ("y", 0, 6))),
    ]
    temporal = replace(SETTINGS, split="temporal", min_user_interactions=1, validation_share=0.1, test_share=0.75)
    result = sessionized(tmp_path, interactions, temporal)
    training = [(user, step) for user, steps in result.timelines().items() for step in steps if step[0] < 5]
    assert training == [(f"u{n}", step) for n in range(4) for step in [(1, "x"), (2, "b"), (3, "a"), (4, "b")]]
    assert [(item, domain) for _, item, domain, _ in result.items] == [("a", 0), ("x", 0), ("b", 1)]
    filtered = {name: row["filtered"] for name, row in result.metrics["domain"].items()}
    assert filtered["Toys"]["item of another domain"] == 0  # y has no training interaction: its first domain owns it
    assert filtered["Books"]["item of another domain"] == 2 + 30 + 30
    assert filtered["Toys"]["too few interactions or domains"] == 30
