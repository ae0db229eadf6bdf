"""Every experiment has its model_run in MLflow, whatever DVC restored, and a model_run holds what its name says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from checkouts import set_parameters
from mlflow import MlflowClient
from tiny_checkout import read_yaml, repro, run, runs_of

from tapestry.provenance.hashes import code_hash, content_hash
from tapestry.tracking.experiment import stage_name

STAGES = {"fetch@Books", "fetch@Toys", "ingest@Books", "ingest@Toys", "sessionize", "baselines", "evaluate"}


@pytest.fixture
def checkout(reproduced: Path, tmp_path: Path) -> Path:
    return shutil.copytree(reproduced, tmp_path / "checkout")


def children(folder: Path, model_run: Any) -> dict[str, Any]:
    found = [run for run in runs_of(folder) if run.data.tags.get("mlflow.parentRunId") == model_run.info.run_id]
    by_stage = {stage_name(run): run for run in found}
    assert len(by_stage) == len(found)
    return by_stage


def history(folder: Path, model_run: Any, name: str) -> list[tuple[int, float]]:
    points = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").get_metric_history(model_run.info.run_id, name)
    return [(point.step, point.value) for point in points]


def assert_complete(folder: Path, model_run: Any, metrics: Path) -> None:
    """That a model's model_run has all parameters, its curves and its test figures, each once."""
    test, train = (json.loads((metrics / f"{name}.json").read_text()) for name in ("test", "train"))
    for name in ("hr_10", "hr_100", "mrr"):
        assert history(folder, model_run, f"test/all/{name}") == [(0, test["all"][name])]
    assert history(folder, model_run, "test/domain/Toys/mrr") == [(0, test["domain"]["Toys"]["mrr"])]
    assert history(folder, model_run, "val/best/ndcg_10") == [(0, train["best"]["ndcg_10"])]
    lines = [line.split(",") for line in (metrics / "curve.csv").read_text().splitlines()]
    place = lines[0].index("ndcg_10")
    assert history(folder, model_run, "val/ndcg_10") == [(int(line[0]), float(line[place])) for line in lines[1:]]
    assert len(history(folder, model_run, "train/loss")) == len(lines) - 1
    assert {"source.release", "ingest.threads", "model.width", "evaluate.ks"} <= set(model_run.data.params)
    assert model_run.info.status == "FINISHED"
    assert model_run.data.tags["model_hash"]


def test_a_first_run_is_one_row_with_its_stages_under_it(checkout: Path) -> None:
    (model_run,) = runs_of(checkout, "train")
    assert_complete(checkout, model_run, checkout / "metrics")
    commit = run(["git", "rev-parse", "HEAD"], checkout).strip()
    assert model_run.info.run_name == f"train · {commit[:7]}"
    tags = model_run.data.tags
    assert tags["git_commit"] == commit
    assert tags["code_hash"] == code_hash(checkout)
    assert tags["model_hash"] == content_hash(checkout / "models")
    assert tags["data_hash"] == content_hash(checkout / "data/sequences")
    assert "restored" not in tags
    lock = read_yaml(checkout / "dvc.lock")["stages"]
    assert tags["dvc_md5/models"] == lock["train"]["outs"][0]["md5"]
    assert "Test: HR@10" in tags["mlflow.note.content"]
    assert {"duration_seconds", "tokens_per_second", "peak_memory_mb"} <= {
        name.removeprefix("stage/") for name in model_run.data.metrics
    }
    assert "system/process_memory_usage_megabytes" in model_run.data.metrics
    assert {"cpu", "cpu_arithmetic", "cores", "memory_gb", "python"} <= set(tags)
    (read,) = model_run.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == ("sequences", tags["data_hash"][:36])
    client = MlflowClient(f"sqlite:///{checkout / 'mlflow.db'}")
    for folder, name in (("reports", "index.html"), ("models", "config.json"), ("metrics", "test.json")):
        assert f"{folder}/{name}" in [file.path for file in client.list_artifacts(model_run.info.run_id, folder)]
    under = children(checkout, model_run)
    assert set(under) == STAGES
    for stage, child in under.items():
        assert child.info.run_name == f"{stage} · {commit[:7]}"
        assert "restored" not in child.data.tags
        for out in lock[stage]["outs"]:
            assert child.data.tags[f"dvc_md5/{out['path']}"] == out["md5"]
        for dep in lock[stage]["deps"]:
            assert json.loads(child.data.tags["dvc_inputs"])[dep["path"]] == dep["md5"]


def test_a_run_that_changes_nothing_adds_no_row_and_one_that_restores_finds_its_old_one(checkout: Path) -> None:
    before = {model_run.info.run_id: model_run.data for model_run in runs_of(checkout)}
    assert repro(checkout) == set()
    set_parameters(checkout, {"model.state_dim": 4})
    assert repro(checkout) == {"train", "evaluate", "figures", "report"}
    first, second = runs_of(checkout, "train")
    assert_complete(checkout, second, checkout / "metrics")
    assert (first.data.params["model.state_dim"], second.data.params["model.state_dim"]) == ("8", "4")
    under = children(checkout, second)
    assert set(under) == STAGES
    assert {stage for stage, child in under.items() if "restored" not in child.data.tags} == {"evaluate"}
    originals = children(checkout, first)
    for stage in STAGES - {"evaluate"}:
        assert under[stage].data.tags["made_by"] == originals[stage].info.run_id
    after = {model_run.info.run_id for model_run in runs_of(checkout)}
    set_parameters(checkout, {"model.state_dim": 8})
    assert repro(checkout) == {"figures"}
    assert {model_run.info.run_id for model_run in runs_of(checkout)} == after
    assert {run_id: model_runs.metrics for run_id, model_runs in before.items()} == {
        model_run.info.run_id: model_run.data.metrics
        for model_run in runs_of(checkout)
        if model_run.info.run_id in before
    }


@pytest.mark.parametrize("elsewhere", [[], ["--temp"]])
def test_each_experiment_has_its_own_whole_row(checkout: Path, elsewhere: list[str]) -> None:
    """Also one whose model is that of another, and one in which nothing is new."""
    commit = run(["git", "rev-parse", "HEAD"], checkout).strip()
    settings = {
        "wider": "model.state_dim=4",
        "cutoffs": "evaluate.ks=[1,3,10,100]",
        "again": "model.state_dim=4",
        "same": "model.state_dim=8",
    }
    figures = {}
    for name, setting in settings.items():
        run(["dvc", "exp", "run", *elsewhere, "--name", name, "-S", setting], checkout)
        if not elsewhere:
            run(["git", "stash", "--quiet"], checkout)
        (commit_of,) = run(["git", "for-each-ref", "--format=%(objectname)", f"refs/exps/**/{name}"], checkout).split()
        figures[name] = checkout.parent / name
        for file in ("test.json", "train.json", "curve.csv"):
            figures[name].mkdir(exist_ok=True)
            (figures[name] / file).write_text(run(["git", "show", f"{commit_of}:metrics/{file}"], checkout))
    model_runs = {model_run.data.tags["dvc_exp"]: model_run for model_run in runs_of(checkout, "train")}
    assert len(runs_of(checkout, "train")) == 5
    assert set(model_runs) == {"", *settings}
    for name, setting in settings.items():
        model_run = rows[name]
        assert model_run.info.run_name == f"train · {name}"
        assert_complete(checkout, model_run, figures[name])
        key, _, value = setting.partition("=")
        assert model_run.data.params[key] == value.replace("[", "(").replace(",", ", ").replace("]", ")")
        assert model_run.data.tags["git_commit"] == commit
        assert set(children(checkout, model_run)) == STAGES
    made_by = {name: model_run.data.tags.get("made_by") for name, model_run in model_runs.items()}
    first, wider = (rows[name].info.run_id for name in ("", "wider"))
    assert made_by == {"": None, "wider": None, "again": wider, "cutoffs": first, "same": first}
    assert history(checkout, rows["cutoffs"], "test/all/hr_3") != []
    assert "test/all/hr_3" not in rows[""].data.metrics
    assert rows["again"].data.tags["model_hash"] == rows["wider"].data.tags["model_hash"]


def test_a_queue_of_two_workers_and_a_plain_stage_log_to_the_one_store(checkout: Path) -> None:
    run(["dvc", "exp", "run", "--queue", "-S", "model.state_dim=4,6"], checkout)
    run(["dvc", "exp", "run", "--run-all", "--jobs", "2"], checkout)
    model_runs = runs_of(checkout, "train")
    assert sorted(model_run.data.params["model.state_dim"] for model_run in model_runs) == ["4", "6", "8"]
    for model_run in model_runs:
        assert set(children(checkout, model_run)) == STAGES
        assert model_run.info.status == "FINISHED"
    run(["python", "stages/run.py", "train"], checkout)
    assert len(runs_of(checkout, "train")) == 4
    assert list((checkout / "mlflow.pending").iterdir()) == []


def test_record_by_hand_is_refused(checkout: Path) -> None:
    with pytest.raises(AssertionError, match=r"record: error: record: tells MLflow what DVC has in dvc\.lock"):
        run(["python", "stages/run.py", "record"], checkout)
