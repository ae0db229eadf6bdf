"""The text files of metrics/, from the outputs of the earlier stages."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from small import random_sequences

from tapestry.core.errors import TapestryError
from tapestry.core.splits import TEST
from tapestry.evaluation.ranking import Ranks
from tapestry.evaluation.ranks import ranks_table, write_ranks
from tapestry.figures.summary import Results, read_results, summary, write_figures

USERS = 40
SEQUENCES = random_sequences(3, users=USERS)
EPOCHS = [{"epoch": 1, "loss": 1 / 3, "n": 40, "hr_10": 0.1}, {"epoch": 2, "loss": 1e-7, "n": 40, "hr_10": 0.05}]
TRAINING = {"summary": {"best": EPOCHS[0], "final": EPOCHS[1], "epochs": 2, "tokens": 80}, "curve": EPOCHS}
STATISTICS = {
    "all": {"rows_in": 9, "users": 40, "items": 30, "interactions": 360, "delta": 0.1 + 0.2, "tied_pairs": 0.5},
    "domain": {"D0": {"users": 1}, "D1": {"users": 2}, "D2": {"users": 3}},
}


def table(ranks: Sequence[int]) -> pa.Table:
    targets = SEQUENCES.targets(TEST)
    return ranks_table(SEQUENCES, targets, Ranks(np.array(ranks, dtype=np.int64), np.full(USERS, 200)))


def results(model: Sequence[int], **baselines: Sequence[int]) -> Results:
    return Results(STATISTICS, TRAINING, table(model), {name: table(ranks) for name, ranks in baselines.items()})


MODEL = [1, 10, 11, 100, 101, *[150] * 35]
KNN = [5, 100, *[101] * 38]  # 2 of 40 targets have a rank up to 100; the model has 4
POPULARITY = [3, *[200] * 39]


def test_the_summary_is_flat_and_does_not_depend_on_the_cut_offs(tmp_path: Path) -> None:
    given = results(MODEL, item_knn=KNN, popularity=POPULARITY)
    for ks in ([3], [1, 10, 100]):
        write_figures(given, ks, None, tmp_path)
        found = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
        assert found == {
            "hr_10": pytest.approx(2 / 40),
            "hr_100": pytest.approx(4 / 40),
            "ndcg_10": pytest.approx((1 + 1 / np.log2(11)) / 40),
            "ndcg_100": pytest.approx((1 + 1 / np.log2(11) + 1 / np.log2(12) + 1 / np.log2(101)) / 40),
            "mrr": pytest.approx((1 + 1 / 10 + 1 / 11 + 1 / 100 + 1 / 101 + 35 / 150) / 40),
            "gain_hr_100": pytest.approx(1.0),
            "best_epoch": 1,
            "users": 40,
            "items": 30,
            "interactions": 360,
            "delta": 0.1 + 0.2,
        }


@pytest.mark.parametrize(("best", "gain"), [([101] * 40, None), ([1] * 8 + [101] * 32, -0.5)])
def test_the_gain_is_over_the_best_baseline_and_null_if_that_is_zero(best: list[int], gain: float | None) -> None:
    for baselines in ({"item_knn": best, "popularity": [200] * 40}, {"item_knn": [200] * 40, "popularity": best}):
        assert summary(results(MODEL, **baselines))["gain_hr_100"] == gain


def write_inputs(folder: Path) -> tuple[Path, Path, Path, Path]:
    paths = folder / "statistics.json", folder / "models", folder / "ranks.parquet", folder / "baselines"
    statistics, models, ranks, baselines = paths
    models.mkdir()
    baselines.mkdir()
    statistics.write_text(json.dumps(STATISTICS), encoding="utf-8")
    (models / "training.json").write_text(json.dumps(TRAINING), encoding="utf-8")
    write_ranks(table(MODEL), ranks)
    write_ranks(table(KNN), baselines / "item_knn.parquet")
    write_ranks(table(POPULARITY), baselines / "popularity.parquet")
    return paths


def test_the_files_have_the_figures_of_the_earlier_stages_with_all_digits(tmp_path: Path) -> None:
    test = write_figures(
        read_results(*write_inputs(tmp_path), ["item_knn", "popularity"]), [1, 100], None, tmp_path / "metrics"
    )

    def read(name: str) -> Any:
        return json.loads((tmp_path / "metrics" / name).read_text(encoding="utf-8"))

    assert read("data.json") == STATISTICS
    assert read("train.json") == TRAINING["summary"]
    assert read("test.json") == test
    assert test["all"]["n"] == 40
    with (tmp_path / "metrics/curve.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{key: str(value) for key, value in epoch.items()} for epoch in EPOCHS]
    cutoffs = (tmp_path / "metrics/cutoffs.csv").read_text(encoding="utf-8").splitlines()
    assert cutoffs == [
        "method,k,hr",
        "tapestry,1,0.025",
        "tapestry,100,0.1",
        "item_knn,1,0.0",
        "item_knn,100,0.05",
        "popularity,1,0.0",
        "popularity,100,0.025",
    ]


def test_without_a_baseline_all_files_are_those_of_the_model_alone(tmp_path: Path) -> None:
    test = write_figures(read_results(*write_inputs(tmp_path), []), [100], None, tmp_path / "metrics")
    assert test["baselines"] == {}
    summary_file = json.loads((tmp_path / "metrics/summary.json").read_text(encoding="utf-8"))
    assert summary_file["gain_hr_100"] is None
    assert summary_file["hr_100"] == pytest.approx(4 / 40)
    cutoffs = (tmp_path / "metrics/cutoffs.csv").read_text(encoding="utf-8").splitlines()
    assert cutoffs == ["method,k,hr", "tapestry,100,0.1"]


@pytest.mark.parametrize(("name", "stage"), [("statistics.json", "sessionize"), ("models/training.json", "train")])
def test_a_missing_or_damaged_file_is_an_error_with_the_stage_that_makes_it(
    tmp_path: Path, name: str, stage: str
) -> None:
    paths = write_inputs(tmp_path)
    for content in ("{", "[" * 100_000, "[]", "{}", "null"):
        (tmp_path / name).write_text(content, encoding="utf-8")
        with pytest.raises(TapestryError, match=rf"{name}: damaged \(.*\); run `dvc repro --force {stage}`"):
            read_results(*paths, ["item_knn", "popularity"])
    (tmp_path / name).unlink()
    with pytest.raises(TapestryError, match=rf"{name}: not there; run `dvc repro {stage}`"):
        read_results(*paths, ["item_knn", "popularity"])
