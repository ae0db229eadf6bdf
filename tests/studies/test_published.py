"""Figures beside published ones, recomputed by plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small import random_sequences

from tapestry.core.errors import TapestryError
from tapestry.core.splits import TEST
from tapestry.evaluation.ranking import Ranks
from tapestry.evaluation.ranks import ranks_table
from tapestry.studies.published import Published, compare_with_published, read_published


def trials(seeds: int) -> list[pa.Table]:
    sequences = random_sequences(3, users=40)
    targets = sequences.targets(TEST)
    generator = np.random.default_rng(1)
    return [
        ranks_table(sequences, targets, Ranks(generator.integers(1, 60, len(targets)), np.full(len(targets), 60)))
        for _ in range(seeds)
    ]


def test_our_figures_are_means_over_seeds_and_the_domains_targets() -> None:
    tables = trials(3)
    wanted = [Published("D1", "A", "hr_1_of_1", 0.4, 0.01), Published("D1", "A", "mrr_of_1", 0.5, None)]
    hr, mrr = compare_with_published(tables, wanted)
    of_seeds = []
    for table in tables:
        # One negative among 59 others: the target is first unless one of the better ones is drawn.
        first = [1 - (row["rank"] - 1) / 59 for row in table.to_pylist() if row["domain"] == "D1"]
        of_seeds.append(sum(first) / len(first))
    mean = sum(of_seeds) / 3
    assert hr["ours"] == pytest.approx(mean, abs=1e-5)
    assert hr["ours_sd"] == pytest.approx(math.sqrt(sum((x - mean) ** 2 for x in of_seeds) / 2), abs=1e-5)
    assert hr["change"] == pytest.approx(mean / 0.4 - 1, abs=1e-5)
    assert hr["low"] < hr["change"] < hr["high"]
    assert (hr["published"], hr["published_sd"], hr["seeds"]) == (0.4, 0.01, 3)
    assert mrr["ours"] == pytest.approx((1 + mean) / 2, abs=1e-5)  # first, or second of two
    assert mrr["published_sd"] == ""
    assert hr["targets"] == sum(row["domain"] == "D1" for row in tables[0].to_pylist())


def test_our_figures_of_a_full_ranking_stand_beside_each_methods_own() -> None:
    tables = trials(2)
    figures = ("hr_10", "ndcg_10", "mrr", "hr_10_of_1")
    means = {"A": 0.2, "B": 0.4}
    rows = compare_with_published(tables, [Published("D2", m, f, means[m], None) for f in figures for m in means])
    ranks = [[row["rank"] for row in table.to_pylist() if row["domain"] == "D2"] for table in tables]

    def mean(value: Callable[[int], float]) -> float:
        return sum(sum(map(value, of_seed)) / len(of_seed) for of_seed in ranks) / 2

    ours = {
        "hr_10": mean(lambda rank: float(rank <= 10)),
        "ndcg_10": mean(lambda rank: 1 / math.log2(1 + rank) if rank <= 10 else 0.0),
        "mrr": mean(lambda rank: 1 / rank),
        "hr_10_of_1": 1.0,  # of two candidates each is among the first ten
    }
    assert [(row["method"], row["metric"]) for row in rows] == [(m, f) for m in means for f in figures]
    for row in rows:
        assert row["ours"] == pytest.approx(ours[row["metric"]], abs=1e-5)
        assert row["change"] == pytest.approx(ours[row["metric"]] / means[row["method"]] - 1, abs=1e-4)
        assert row["published"] == means[row["method"]]


def test_published_figures_of_another_set_are_an_error(tmp_path: Path) -> None:
    file = tmp_path / "published.csv"
    file.write_text("data,domain,method,metric,mean,sd\nbooks,B,A,hr_5_of_99,0.5,\n")
    assert read_published(file, "books") == [Published("B", "A", "hr_5_of_99", 0.5, None)]
    with pytest.raises(TapestryError, match=r"published\.csv: no figures of toys"):
        read_published(file, "toys")
