"""The validation figures and the one by which training stops, compared with cases computed by hand and plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import random_sequences, sequences_of

from tapestry.core.errors import TapestryError
from tapestry.core.splits import VALIDATION
from tapestry.evaluation.metrics import ranking_metrics
from tapestry.evaluation.ranking import Ranks
from tapestry.evaluation.validation import validation_figures
from tapestry.sequences.reader import Sequences

CURVE = ["n", "hr_1", "hr_10", "hr_100", "ndcg_1", "ndcg_10", "ndcg_100", "mrr"]
# The validation targets are the items 1, 0, 2 and 2: two of domain 0, two of domain 1, none of domain 2.
SEQUENCES = sequences_of([[0, 1, 0], [1, 0, 1], [0, 2, 0], [1, 2, 4]], [0, 0, 1, 1, 2])
RANKS = [1, 4, 2, 20]


def figures(sequences: Sequences, rank: list[int], stop_by: str) -> dict[str, float]:
    ranks = Ranks(np.array(rank, dtype=np.int64), np.full(len(rank), 1000))
    return validation_figures(sequences, sequences.targets(VALIDATION), ranks, stop_by)


@pytest.mark.parametrize(
    ("stop_by", "expected"),
    [
        ("hr_3", 2 / 4),
        ("ndcg_4", (1 + 1 / math.log2(5) + 1 / math.log2(3)) / 4),
        ("domain_mrr", ((1 + 1 / 4) / 2 + (1 / 2 + 1 / 20) / 2) / 2),
        ("domain_hr_20", 1.0),
        ("domain_ndcg_10", ((1 + 1 / math.log2(5)) / 2 + 1 / math.log2(3) / 2) / 2),
    ],
)
def test_the_stopping_figure_comes_after_those_of_the_curve(stop_by: str, expected: float) -> None:
    found = figures(SEQUENCES, RANKS, stop_by)
    assert list(found) == [*CURVE, stop_by]
    assert found[stop_by] == pytest.approx(expected, abs=1e-15)
    assert {key: found[key] for key in CURVE} == ranking_metrics(np.array(RANKS), [1, 10, 100])


def test_among_all_other_candidates_a_sampled_figure_is_that_of_the_full_ranking() -> None:
    for name in ("hr_3", "domain_ndcg_10", "domain_mrr"):
        found = figures(SEQUENCES, RANKS, f"{name}_of_999")  # of 1,000 candidates
        assert list(found) == [*CURVE, f"{name}_of_999"]
        assert found[f"{name}_of_999"] == pytest.approx(figures(SEQUENCES, RANKS, name)[name])


def test_a_sampled_figure_by_hand() -> None:
    """A target of rank r, of 1,000 candidates, is first beside one negative with probability (1000 − r) / 999."""
    expected = [(1000 - rank) / 999 for rank in RANKS]
    found = figures(SEQUENCES, RANKS, "domain_hr_1_of_1")["domain_hr_1_of_1"]
    assert found == pytest.approx((sum(expected[:2]) / 2 + sum(expected[2:]) / 2) / 2)


@pytest.mark.parametrize("stop_by", ["ndcg_10", "hr_100", "mrr"])
def test_a_figure_of_the_curve_is_no_further_figure(stop_by: str) -> None:
    assert figures(SEQUENCES, RANKS, stop_by) == ranking_metrics(np.array(RANKS), [1, 10, 100])


def test_a_domain_counts_once_however_many_targets_it_has() -> None:
    sequences = sequences_of([[0, 1, 0]] * 9 + [[0, 2, 0]], [0, 0, 1])
    found = figures(sequences, [1] * 9 + [4], "domain_mrr")
    assert found["domain_mrr"] == (1 + 1 / 4) / 2
    assert found["mrr"] == pytest.approx((9 + 1 / 4) / 10)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), domains=st.integers(1, 4), k=st.integers(1, 30), data=st.data())
def test_means_over_domains_equal_plain_loops(seed: int, domains: int, k: int, data: st.DataObject) -> None:
    sequences = random_sequences(seed, domains=domains)
    targets = sequences.targets(VALIDATION)
    rank = data.draw(st.lists(st.integers(1, 40), min_size=len(targets), max_size=len(targets)))
    value_of: dict[str, Callable[[int], float]] = {
        "mrr": lambda r: 1 / r,
        f"hr_{k}": lambda r: 1 if r <= k else 0,
        f"ndcg_{k}": lambda r: 1 / math.log2(r + 1) if r <= k else 0,
    }
    for metric, value in value_of.items():
        by_domain: dict[str, list[float]] = {}
        for target, r in zip(targets.tolist(), rank, strict=True):
            (name,) = [d.name for d in sequences.domains if d.start <= sequences.item[target] < d.end]
            by_domain.setdefault(name, []).append(value(r))
        expected = sum(sum(values) / len(values) for values in by_domain.values()) / len(by_domain)
        assert figures(sequences, rank, f"domain_{metric}")[f"domain_{metric}"] == pytest.approx(expected, abs=1e-12)


def test_without_targets_there_is_only_their_number() -> None:
    sequences = sequences_of([[0, 1, 0]], [0, 0], split=[[0, 0, 0]])
    assert figures(sequences, [], "domain_mrr") == {"n": 0}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "ndcg",
        "ndcg_0",
        "hr_-1",
        "hr_010",
        "mrr_10",
        "MRR",
        "domain_",
        "domain_domain_mrr",
        "hr_1000000001",
        "mrr_of_0",
    ],
)
def test_another_name_is_an_error_that_says_what_is_accepted(name: str) -> None:
    with pytest.raises(
        TapestryError, match=rf"^train\.stop_by: '{name}' is no validation figure; accepted are hr_K, .*_of_N"
    ):
        figures(SEQUENCES, RANKS, name)
