"""Test metrics by group, recomputed from the table of ranks by plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small import random_sequences

from tapestry.core.splits import TEST
from tapestry.evaluation.ranking import Ranks
from tapestry.evaluation.ranks import ranks_table, read_ranks, write_ranks
from tapestry.figures.breakdowns import compare, hr_by_cutoff, summarise


def test_metrics_by_group_equal_plain_loops_over_the_table(tmp_path: Path) -> None:
    sequences = random_sequences(3, users=60)
    targets = sequences.targets(TEST)
    generator = np.random.default_rng(0)
    ranks = Ranks(generator.integers(1, 11, len(targets)), np.full(len(targets), 10))
    write_ranks(ranks_table(sequences, targets, ranks), tmp_path / "ranks.parquet")
    table = read_ranks(tmp_path / "ranks.parquet")
    metrics = summarise(table, [1, 5], ["D0", "D1", "D2", "D3"])
    rows = table.to_pylist()

    def hr_5(chosen: list[dict[str, object]]) -> float:
        return sum(row["rank"] <= 5 for row in chosen) / len(chosen)  # type: ignore[operator]

    assert metrics["all"]["hr_5"] == pytest.approx(hr_5(rows))
    for name in ("D0", "D1", "D2"):
        assert metrics["domain"][name]["hr_5"] == pytest.approx(hr_5([r for r in rows if r["domain"] == name]))
    assert metrics["domain"]["D3"] == {"n": 0}
    for group, key in (("transition", "switch"), ("tied", "tied")):
        assert metrics[group][key]["hr_5"] == pytest.approx(hr_5([r for r in rows if r[key]]))
        assert sum(m["n"] for m in metrics[group].values()) == len(rows)
    bands = metrics["popularity"]
    assert sum(band["n"] for band in bands.values()) == len(rows)
    ordered = sorted(rows, key=lambda row: row["popularity"])
    assert bands["tail"]["n"] <= len(rows) * 2 / 3
    tail = [row for row in ordered if row["popularity"] <= ordered[bands["tail"]["n"] - 1]["popularity"]]
    assert bands["tail"]["hr_5"] == pytest.approx(hr_5(tail))


def test_each_group_and_baseline_has_figures_among_sampled_negatives_if_wanted() -> None:
    sequences = random_sequences(3, users=30)
    targets = sequences.targets(TEST)
    ranks = np.random.default_rng(0).integers(1, 11, len(targets))
    table = ranks_table(sequences, targets, Ranks(ranks, np.full(len(targets), 10)))
    plain = compare(table, {"popularity": table}, [1, 5], ["D0", "D3"])
    sampled = compare(table, {"popularity": table}, [1, 5], ["D0", "D3"], 4)
    assert sampled["domain"]["D3"] == {"n": 0}
    for found, full in (
        (sampled["all"], plain["all"]),
        (sampled["transition"]["switch"], plain["transition"]["switch"]),
        (sampled["baselines"]["popularity"], plain["baselines"]["popularity"]),
    ):
        assert {name: value for name, value in found.items() if "_of_" not in name} == full
        assert set(found) - set(full) == {f"{name}_of_4" for name in full if name != "n"}
        assert found["hr_5_of_4"] == 1.0  # the target and 4 others
        assert full["hr_1"] < found["hr_1_of_4"] < 1.0


def test_baselines_are_compared_with_the_model_over_all_targets() -> None:
    sequences = random_sequences(3, users=4)
    targets = sequences.targets(TEST)

    def table(ranks: list[int]) -> pa.Table:
        return ranks_table(sequences, targets, Ranks(np.array(ranks), np.full(4, 10)))

    model = table([1, 1, 2, 9])
    baselines = {"item_knn": table([1, 2, 2, 9]), "popularity": table([9, 9, 9, 9])}
    metrics = compare(model, baselines, [1, 2], ["D0", "D1", "D2"])
    assert {name: value for name, value in metrics.items() if name != "baselines"} == summarise(
        model, [1, 2], ["D0", "D1", "D2"]
    )
    assert metrics["baselines"]["item_knn"]["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 2 + 1 / 9) / 4)
    assert metrics["baselines"]["popularity"]["n"] == 4
    assert hr_by_cutoff(metrics, [1, 2]) == [
        {"method": "tapestry", "k": 1, "hr": 0.5},
        {"method": "tapestry", "k": 2, "hr": 0.75},
        {"method": "item_knn", "k": 1, "hr": 0.25},
        {"method": "item_knn", "k": 2, "hr": 0.75},
        {"method": "popularity", "k": 1, "hr": 0},
        {"method": "popularity", "k": 2, "hr": 0},
    ]
