"""Studies: their parameters are valid, their stages are those of the recipes, and their tables follow from ranks."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from checkouts import ROOT
from small import random_sequences
from tiny_checkout import read_yaml

from tapestry.core.splits import TEST, VALIDATION
from tapestry.evaluation.metrics import ranking_metrics
from tapestry.evaluation.ranks import read_ranks
from tapestry.evaluation.settings import EvaluateSettings
from tapestry.ingest.settings import IngestSettings
from tapestry.model.settings import ModelSettings
from tapestry.parameters import Parameters
from tapestry.sessionize.settings import SessionizeSettings
from tapestry.source.settings import SyntheticSettings
from tapestry.studies.groups import target_groups
from tapestry.studies.results import METRICS, change_row, group_rows, metric_values, read_trials, summary_row, users_of
from tapestry.studies.trials import changed_section, run_recipe, run_trial
from tapestry.tracking.journal import read_events
from tapestry.training.settings import TrainSettings

QUALITY, CEILING, TUNING = (ROOT / "studies" / name for name in ("quality", "ceiling", "tuning"))
PARAMS = read_yaml(QUALITY / "params.yaml")
SIMULATED = read_yaml(CEILING / "params.yaml")


@pytest.mark.parametrize(
    ("recipes", "recipe"), [(of["recipes"], recipe) for of in (PARAMS, SIMULATED) for recipe in of["recipes"]]
)
def test_a_recipe_has_valid_settings(recipes: dict[str, Any], recipe: str) -> None:
    changes = recipes[recipe]
    assert changes.keys() == {"model", "train"}
    changed_section(ModelSettings, "model", changes["model"], QUALITY / "params.yaml")
    changed_section(TrainSettings, "train", changes["train"], QUALITY / "params.yaml")


def test_the_default_recipe_is_that_of_the_checkout(parameters: Parameters) -> None:
    recipes = read_yaml(ROOT / "studies/side_by_side/params.yaml")["recipes"]
    recipe = recipes["default"]
    recommended = {"ddsr": False, "recent_weight": 0.07, "neighbour_weight": 0.25}
    with_neighbours = read_yaml(ROOT / "studies/neighbours/params.yaml")["recipes"]["beside"]
    assert with_neighbours == {  # as the README recommends for real reviews
        "model": recipe["model"] | recommended,
        "train": recipe["train"] | {"average_share": 0.75},
    }
    without = {key: value for key, value in with_neighbours["model"].items() if key != "neighbour_weight"}
    assert recipes["beside"] == {"model": without, "train": with_neighbours["train"]}
    model = changed_section(ModelSettings, "model", recipe["model"], QUALITY / "params.yaml")
    train = changed_section(TrainSettings, "train", recipe["train"], QUALITY / "params.yaml")
    assert model == parameters.model
    of_machine = {name: getattr(train, name) for name in ("device", "threads")}
    assert train == dataclasses.replace(parameters.train, **of_machine)


def test_the_other_sections_are_valid() -> None:
    sections: dict[str, Any] = {
        "ingest": IngestSettings,
        "sessionize": SessionizeSettings,
        "evaluate": EvaluateSettings,
    }
    for name, section in sections.items():
        changed_section(section, name, {}, QUALITY / "params.yaml")


def test_every_recipe_has_its_stages() -> None:
    stages = read_yaml(QUALITY / "dvc.yaml")["stages"]
    assert {recipe for stage in stages.values() for recipe in stage.get("matrix", {}).get("recipe", [])} == set(
        PARAMS["recipes"]
    )


def test_the_simulated_trials_are_recipes_of_one_of_the_studies_with_a_history() -> None:
    stages = read_yaml(CEILING / "dvc.yaml")["stages"]
    trials = {trial for stage in stages.values() for trial in stage.get("matrix", {}).get("trial", [])}
    used = {trial.partition("-")[0] for trial in trials}
    assert used == set(SIMULATED["recipes"]) | {
        "hstu_items",
        "hstu_state",
        "paper_items",
        "hybrid_items",
        "hybrid_state",
    }
    assert used <= set(SIMULATED["recipes"]) | set(PARAMS["recipes"])
    assert {trial.partition("-")[2] for trial in trials} == {"own", "exchanged", "all"}
    assert not SIMULATED["recipes"].keys() & PARAMS["recipes"].keys()
    changed_section(SyntheticSettings, "synthetic", {}, CEILING / "params.yaml")


def test_an_ablation_leaves_out_one_part() -> None:
    paper, own = PARAMS["recipes"]["paper_items"], SIMULATED["recipes"]
    for part in ("tape", "ddsr"):
        assert own[f"paper_no_{part}"] == {"model": paper["model"] | {part: False}, "train": paper["train"]}
    recipes = PARAMS["recipes"]
    hstu = recipes["hstu_items"]
    assert recipes["hstu_state"] == {"model": hstu["model"] | {"target_state": True}, "train": hstu["train"]}
    for fewer, other in (("hybrid_fewer", "hybrid_state"), ("hstu_fewer", "hstu_items")):
        of_other = recipes[other]
        assert recipes[fewer] == {"model": of_other["model"], "train": of_other["train"] | {"negatives": 1024}}


def test_tuning_draws_valid_settings_in_which_the_values_of_a_key_are_equally_frequent() -> None:
    params = read_yaml(TUNING / "params.yaml")
    drawn = run_path(str(TUNING / "tuning_study.py"))["drawn_settings"]
    trials = [drawn(trial, params["space"], params["drawn_trials"], params["seed"]) for trial in range(12)]
    assert trials[0] == {"model": {}, "train": {}}
    for trial in trials:
        changed_section(ModelSettings, "model", trial["model"], QUALITY / "params.yaml")
        changed_section(TrainSettings, "train", trial["train"], QUALITY / "params.yaml")
    for section, keys in params["space"].items():
        for key, values in keys.items():
            times = Counter(trial[section][key] for trial in trials[1:])
            assert set(times) == set(values)
            assert max(times.values()) - min(times.values()) <= 1
    stages = read_yaml(TUNING / "dvc.yaml")["stages"]
    assert stages["short"]["matrix"]["trial"] == list(range(len(trials)))


@pytest.mark.parametrize(
    ("study", "count"),
    [
        ("quality", 11),
        ("ceiling", 3),
        ("tuning", 3),
        ("recent_counts", 4),
        ("averaging", 4),
        ("side_by_side", 4),
        ("neighbours", 4),
        ("peers", 3),
    ],
)
def test_the_readme_has_the_tables_of_the_tracked_results(
    study: str, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    script = run_path(str(ROOT / f"studies/{study}/{study}_study.py"))
    show = script["STUDY"].show if "STUDY" in script else script["show"]
    show()
    shown = capsys.readouterr().out
    tables = [block for block in shown.split("\n\n") if block.startswith("|")]
    assert len(tables) == count
    readme = (ROOT / "studies" / study / "README.md").read_text(encoding="utf-8")
    for table in tables:
        assert table.strip() in readme


def test_the_checkouts_readme_has_the_tables_of_the_tracked_results(capsys: pytest.CaptureFixture[str]) -> None:
    run_path(str(ROOT / "studies/readme_tables.py"))["show"]()
    tables = capsys.readouterr().out.strip().split("\n\n")
    titles = ["| Leave-one-out", "| Temporal split", "| Ahead of HSTU + ALiBi, %"]
    assert [table.split(" | ")[0] for table in tables] == titles
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for table in tables:
        assert table in readme


def test_the_pages_have_the_times_that_were_measured_for_them(capsys: pytest.CaptureFixture[str]) -> None:
    run_path(str(ROOT / "studies/runtime/skew_and_state_dim.py"))["show"]()
    tables = [block.strip() for block in capsys.readouterr().out.split("\n\n") if block.startswith("|")]
    for study, table in zip(("skew", "state_dim"), tables, strict=True):
        assert table in (ROOT / "studies" / study / "README.md").read_text(encoding="utf-8")


def test_a_trial_writes_the_ranks_of_its_test_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = random_sequences(0, users=30)
    settings: list[Any] = [
        changed_section(section, name, changes, QUALITY / "params.yaml")
        for section, name, changes in (
            (ModelSettings, "model", {"width": 8, "state_dim": 8}),
            (TrainSettings, "train", {"epochs": 1, "threads": 1}),
            (EvaluateSettings, "evaluate", {}),
        )
    ]
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "checkout"))
    for seed in (10, 9):
        run_trial(sequences, settings[0], settings[1], settings[2], tmp_path / "runs" / str(seed))
    assert not (tmp_path / "checkout").exists()  # outside DVC it has no run in MLflow
    first, second = read_trials(tmp_path / "runs")
    assert first.equals(read_ranks(tmp_path / "runs/9/ranks.parquet"))
    assert len(second) == len(sequences.targets(TEST))
    assert users_of(first).tolist() == np.unique(first["user_id"].to_pylist(), return_inverse=True)[1].tolist()


def test_a_trial_under_dvc_logs_its_settings_curve_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("DVC_STAGE", "dvc.yaml:train@full-1")
    recipe = {"model": {"width": 8, "state_dim": 8}, "train": {"epochs": 2, "threads": 1}}
    logged = {}
    for split in (TEST, VALIDATION):
        folder = tmp_path / str(split)
        run_recipe(random_sequences(0, users=30), recipe, 1, QUALITY / "params.yaml", folder, split)
        (journal,) = (tmp_path / "mlflow.pending").iterdir()
        params: dict[str, str] = {}
        figures: dict[tuple[str, int], float] = {}
        for kind, value in read_events(journal)[0]:
            params |= value if kind == "params" else {}
            figures |= {(key, step): number for key, number, _, step in value} if kind == "metrics" else {}
        assert (params["model.width"], params["train.epochs"], params["train.seed"]) == ("8", "2", "1")
        record = json.loads((folder / "training.json").read_text())
        best = record["summary"]["best"]
        assert [figures["val/mrr", epoch["epoch"]] for epoch in record["curve"]] == [e["mrr"] for e in record["curve"]]
        assert figures["val/best/ndcg_10", 0] == best["ndcg_10"]
        logged[split] = figures.get(("test/all/mrr", 0))
        shutil.rmtree(journal)
    assert logged[VALIDATION] is None  # the test figures of a trial that serves to choose aren't computed
    rank = read_ranks(tmp_path / str(TEST) / "ranks.parquet")["rank"].to_numpy()
    assert logged[TEST] == pytest.approx(float(np.mean(1 / rank)))


def test_the_tables_figures_are_the_metrics_of_the_ranks() -> None:
    generator = np.random.default_rng(0)
    ranks = generator.geometric(0.1, size=(3, 200))
    values = metric_values([pa.table({"rank": row}) for row in ranks])
    row = summary_row(values)
    expected = [ranking_metrics(of_seed, (1, 10, 100)) for of_seed in ranks]
    assert row["seeds"] == 3
    for metric in METRICS:
        found = [metrics[metric] for metrics in expected]
        assert row[metric] == pytest.approx(np.mean(found), abs=1e-5)
        assert row[f"{metric}_sd"] == pytest.approx(np.std(found, ddof=1), abs=1e-5)
    better = metric_values([pa.table({"rank": np.maximum(row // 2, 1)}) for row in ranks])
    change = change_row(better, values, np.arange(200))
    assert change["mrr_change"] == pytest.approx(better["mrr"].mean() / values["mrr"].mean() - 1, abs=1e-5)
    assert 0 < change["mrr_low"] < change["mrr_change"] < change["mrr_high"]


def test_rows_of_a_group_are_those_of_its_targets_alone() -> None:
    generator = np.random.default_rng(4)
    values = {name: {metric: generator.uniform(size=(2, 60)) for metric in METRICS} for name in ("ours", "theirs")}
    user, inside = np.arange(60) // 2, np.arange(60) % 7 < 4
    alone = {name: {metric: x[:, inside] for metric, x in found.items()} for name, found in values.items()}
    renumbered = np.unique(user[inside], return_inverse=True)[1]
    for row in group_rows(values, "recipe", "theirs", user, inside):
        ours = alone[row["recipe"]]
        expected = {**summary_row(ours), **change_row(ours, alone["theirs"], renumbered)}
        assert row == {"targets": inside.sum(), "recipe": row["recipe"], **expected}


def test_groups_of_targets() -> None:
    table = pa.table(
        {
            "domain": [*"AB" * 10],
            "switch": [False] * 15 + [True] * 5,
            "tied": [True] + [False] * 19,
            "history": [5, 6, 10, 11, 20, 21, 400] + [1] * 13,
            "popularity": [*range(19, -1, -1)],
        }
    )
    targets = {name: np.flatnonzero(inside).tolist() for name, inside in target_groups(table)}
    assert targets["domain B"] == list(range(1, 20, 2))
    assert targets["other domain"] == [15, 16, 17, 18, 19]
    assert targets["tied"] == [0]
    assert targets["history 1 to 5"] == [0, *range(7, 20)]
    assert [targets[f"history {span}"] for span in ("6 to 10", "11 to 20", "21 to inf")] == [[1, 2], [3, 4], [5, 6]]
    assert targets["popularity decile 1"] == [18, 19]
    assert targets["popularity decile 10"] == [0, 1]
    assert targets["item without training"] == [19]
    families = [["domain A", "domain B"], ["same domain", "other domain"], ["untied", "tied"]]
    families += [[name for name in targets if name.startswith(kind)] for kind in ("history", "popularity")]
    for names in families:
        assert sorted(target for name in names for target in targets[name]) == list(range(20))
