"""Metrics among sampled negatives, against all samples one by one, exact fractions and a simulation."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.evaluation.metrics import ranking_metrics
from tapestry.evaluation.sampled import sampled_metrics


def metrics_of(rank: int, candidates: int, negatives: int, ks: list[int]) -> dict[str, float]:
    return sampled_metrics(np.array([rank]), np.array([candidates]), negatives, ks)


def exact(rank: int, candidates: int, negatives: int, ks: list[int]) -> dict[str, Fraction | float]:
    """The same by exact fractions over the hypergeometric distribution."""
    drawn = min(negatives, candidates - 1)

    def probability(x: int) -> Fraction:
        if drawn - x < 0:
            return Fraction(0)
        ways = math.comb(rank - 1, x) * math.comb(candidates - rank, drawn - x)
        return Fraction(ways, math.comb(candidates - 1, drawn))

    figures: dict[str, Fraction | float] = {}
    for k in ks:
        figures[f"hr_{k}_of_{negatives}"] = sum((probability(x) for x in range(k)), Fraction(0))
        figures[f"ndcg_{k}_of_{negatives}"] = math.fsum(float(probability(x)) / math.log2(x + 2) for x in range(k))
    mrr = sum((probability(x) / (x + 1) for x in range(drawn + 1)), Fraction(0))
    return figures | {f"mrr_of_{negatives}": mrr}


@pytest.mark.parametrize("rank", [1, 2, 4, 7])
def test_an_expectation_is_the_mean_over_all_samples(rank: int) -> None:
    """Candidates 1 to 7, of which the target is number `rank`, and each set of 3 other ones."""
    ranks = []
    for sample in itertools.combinations([item for item in range(1, 8) if item != rank], 3):
        ranks.append(1 + sum(item < rank for item in sample))
    expected = ranking_metrics(np.array(ranks), [1, 2, 5])
    found = metrics_of(rank, 7, 3, [1, 2, 5])
    assert found == pytest.approx({f"{name}_of_3": value for name, value in expected.items() if name != "n"})


@given(st.data())
def test_expectations_are_those_of_exact_fractions(data: st.DataObject) -> None:
    candidates = data.draw(st.integers(1, 300))
    rank = data.draw(st.integers(1, candidates))
    negatives = data.draw(st.integers(1, 350))
    ks = sorted(data.draw(st.sets(st.integers(1, 400), min_size=1, max_size=3)))
    expected = {name: float(value) for name, value in exact(rank, candidates, negatives, ks).items()}
    assert metrics_of(rank, candidates, negatives, ks) == pytest.approx(expected, rel=1e-10, abs=1e-14)


@pytest.mark.parametrize(("rank", "candidates"), [(1, 20_000), (50, 20_000), (900, 20_000), (19_990, 20_000)])
def test_a_large_catalogue(rank: int, candidates: int) -> None:
    expected = {name: float(value) for name, value in exact(rank, candidates, 999, [5, 10]).items()}
    assert metrics_of(rank, candidates, 999, [5, 10]) == pytest.approx(expected, rel=1e-10, abs=1e-14)


def test_a_simulation_scatters_around_the_expectation() -> None:
    generator = np.random.default_rng(0)
    rank, candidates, negatives, samples = 40, 500, 99, 20_000
    drawn = generator.hypergeometric(rank - 1, candidates - rank, negatives, samples)
    simulated = ranking_metrics(drawn + 1, [5, 10])
    found = metrics_of(rank, candidates, negatives, [5, 10])
    for name in ("hr_5", "hr_10", "ndcg_10", "mrr"):  # a mean of values in [0, 1]: 5 standard errors at most
        assert abs(found[f"{name}_of_99"] - simulated[name]) < 5 * 0.5 / math.sqrt(samples)


def test_means_over_targets_of_different_catalogues() -> None:
    pairs = [(3, 50), (3, 50), (20, 40), (1, 9)]
    whole = sampled_metrics(np.array([r for r, _ in pairs]), np.array([c for _, c in pairs]), 10, [1, 5])
    apart = [metrics_of(rank, candidates, 10, [1, 5]) for rank, candidates in pairs]
    assert whole == pytest.approx({name: sum(one[name] for one in apart) / len(apart) for name in whole})


def test_with_all_other_candidates_drawn_the_metrics_are_those_of_the_full_ranking() -> None:
    rank, candidates = np.array([1, 4, 9]), np.array([10, 10, 10])
    full = ranking_metrics(rank, [1, 5])
    assert sampled_metrics(rank, candidates, 9, [1, 5]) == pytest.approx(
        {f"{name}_of_9": value for name, value in full.items() if name != "n"}
    )


def test_no_targets_no_figures() -> None:
    none = np.array([], dtype=np.int64)
    assert sampled_metrics(none, none, 99, [10]) == {}


def test_every_rank_is_a_hit_where_there_are_no_more_negatives_than_ranks() -> None:
    ranks = np.arange(1, 501)
    found = sampled_metrics(ranks, np.full(500, 500), 99, [50, 100])
    assert found["hr_100_of_99"] == 1.0
    assert found["hr_50_of_99"] < 1.0
