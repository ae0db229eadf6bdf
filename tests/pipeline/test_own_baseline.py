"""Which baselines run is a parameter, and a script of one's own is a baseline like the others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from checkouts import commit, set_parameters
from tiny_checkout import read_yaml, repro, run, run_for_output, runs_of

from tapestry.provenance.hashes import content_hash
from tapestry.tracking.experiment import PARENT, stage_name

# The last items of the catalogue come first: a score that plain loops can repeat.
SCRIPT = """
import torch

class Baseline:
    def fit(self, sequences, settings):
        assert set(sequences.split.tolist()) == {0, 1}
        self.sign = SIGN

    def scorer(self, requests):
        return lambda index, items: self.sign * torch.arange(items.start, items.stop).expand(len(index), -1)
"""


@pytest.fixture(scope="module")
def checkout(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a script of its own, `numbers`, which runs instead of two of the three baselines."""
    folder = shutil.copytree(reproduced, tmp_path_factory.mktemp("own") / "checkout", symlinks=True)
    (folder / "baselines/numbers.py").write_text(SCRIPT.replace("SIGN", "1"))
    set_parameters(folder, {"evaluate.baselines": ["numbers", "popularity"]})
    commit(folder)
    assert repro(folder) == {"baseline@numbers", "figures", "report"}
    commit(folder)
    return folder


def figures(folder: Path, name: str) -> Any:
    return json.loads((folder / "metrics" / name).read_text())


def test_a_script_is_ranked_by_our_evaluation_and_others_are_gone(checkout: Path) -> None:
    assert sorted(path.name for path in (checkout / "data/baselines").glob("*.parquet")) == [
        "numbers.parquet",
        "popularity.parquet",
    ]
    table = pq.read_table(checkout / "data/baselines/numbers.parquet")
    items = pq.read_table(checkout / "data/sequences/items.parquet").to_pylist()
    sequences = pq.read_table(checkout / "data/sequences/sequences.parquet").to_pylist()
    users = pq.read_table(checkout / "data/sequences/users.parquet")["user_id"].to_pylist()
    number = {item["item_id"]: item["item"] for item in items}
    for row in table.to_pylist():
        user, target = users.index(row["user_id"]), number[row["item_id"]]
        before = {r["item"] for r in sequences if r["user"] == user and r["position"] < row["history"]}
        domain = items[target]["domain"]
        above = [i for i in items if i["domain"] == domain and i["item"] > target and i["item"] not in before]
        assert row["rank"] == 1 + len(above)
    test = figures(checkout, "test.json")
    assert list(test["baselines"]) == ["numbers", "popularity"]
    ranks = table["rank"].to_pylist()
    assert test["baselines"]["numbers"]["hr_10"] == pytest.approx(sum(rank <= 10 for rank in ranks) / len(ranks))
    best = max(row["hr_100"] for row in test["baselines"].values())
    assert figures(checkout, "summary.json")["gain_hr_100"] == pytest.approx(test["all"]["hr_100"] / best - 1)
    assert {line.split(",")[0] for line in (checkout / "metrics/cutoffs.csv").read_text().split()[1:]} == {
        "tapestry",
        "numbers",
        "popularity",
    }
    assert "Numbers" in (checkout / "reports/index.html").read_text()


def test_a_script_has_a_run_in_mlflow_like_the_other_stages(checkout: Path) -> None:
    model = runs_of(checkout, "train")[-1]
    under = {stage_name(r): r for r in runs_of(checkout) if r.data.tags.get(PARENT) == model.info.run_id}
    assert {name for name in under if name.startswith("baseline@")} == {"baseline@numbers", "baseline@popularity"}
    own = under["baseline@numbers"]
    assert own.info.run_name.startswith("baseline@numbers · ")
    assert own.data.tags["baseline"] == "numbers"
    assert own.data.tags["input_hash"] == content_hash(checkout / "data/sequences")
    assert own.data.tags["data_hash"] == content_hash(checkout / "data/baselines/numbers.parquet")
    (out,) = read_yaml(checkout / "dvc.lock")["stages"]["baseline@numbers"]["outs"]
    assert own.data.tags["dvc_md5/data/baselines/numbers.parquet"] == out["md5"]
    assert own.data.params["peers.seed"] == "7"
    assert under["baseline@popularity"].data.tags["restored"] == "true"
    assert (
        model.data.metrics["test/baselines/numbers/hr_10"]
        == figures(checkout, "test.json")["baselines"]["numbers"]["hr_10"]
    )


def test_the_audit_leads_its_figures_back(checkout: Path) -> None:
    printed = run(["tapestry", "audit"], checkout)
    assert "0 FAIL" in printed
    with (checkout / "baselines/numbers.py").open("a") as script:
        script.write("# edited\n")
    with pytest.raises(AssertionError, match=r"uncommitted changes: baselines/numbers\.py"):
        run(["tapestry", "audit"], checkout)
    run(["git", "checkout", "baselines/numbers.py"], checkout)


def test_a_change_of_a_script_reruns_it_alone(checkout: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkout, tmp_path / "checkout", symlinks=True)
    (folder / "baselines/numbers.py").write_text(SCRIPT.replace("SIGN", "-1"))
    planned = run_for_output(["tapestry", "plan"], folder)
    assert "would rerun: code baselines/numbers.py has changed" in planned
    assert repro(folder) == {"baseline@numbers", "figures", "report"}
    assert figures(folder, "test.json") != figures(checkout, "test.json")


def test_without_baselines_there_are_figures_of_the_model_alone(checkout: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkout, tmp_path / "checkout", symlinks=True)
    set_parameters(folder, {"evaluate.baselines": []})
    commit(folder)
    assert repro(folder) == {"figures", "report"}
    commit(folder)
    assert list((folder / "data/baselines").glob("*.parquet")) == []
    assert figures(folder, "test.json")["baselines"] == {}
    assert figures(folder, "summary.json")["gain_hr_100"] is None
    assert "There is no baseline to compare with." in (folder / "reports/index.html").read_text()
    assert list(json.loads(run_for_output(["dvc", "plots", "show", "--json"], folder))) == ["data"]  # no errors
    assert "tapestry" in run(["tapestry", "figures"], folder)
    assert "0 FAIL" in run(["tapestry", "audit"], folder)


def test_an_unknown_baseline_stops_the_pipeline_with_one_line(checkout: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkout, tmp_path / "checkout", symlinks=True)
    set_parameters(folder, {"evaluate.baselines": ["popularity", "numberz"]})
    with pytest.raises(AssertionError, match=r"there is no baselines/numberz\.py; known are als, hstu_rectools, "):
        repro(folder)
