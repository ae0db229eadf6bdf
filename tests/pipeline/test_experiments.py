"""Every experiment has its MLflow runs, whichever stages DVC restored; a run's data is that of its experiment."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from checkouts import set_parameters
from mlflow import MlflowClient
from tiny_checkout import NARROW, experiment, read_yaml, repro, run, runs_of, stage_names, sync

from tapestry.provenance.hashes import code_hash, content_hash
from tapestry.report.origin import with_origin
from tapestry.tracking.experiment import stage_name

STAGES = {name for of in ("fetch", "ingest", "sessionize", "baseline", "evaluate") for name in stage_names(of)}


@pytest.fixture
def checkout(reproduced: Path, tmp_path: Path) -> Path:
    return shutil.copytree(reproduced, tmp_path / "checkout")


@pytest.fixture
def narrow(narrowed: Path, tmp_path: Path) -> Path:
    """A checkout with two models, the second of the experiment `narrow`."""
    return shutil.copytree(narrowed, tmp_path / "checkout", symlinks=True)


def children(folder: Path, model: Any) -> dict[str, Any]:
    found = [run for run in runs_of(folder) if run.data.tags.get("mlflow.parentRunId") == model.info.run_id]
    by_stage = {stage_name(run): run for run in found}
    assert len(by_stage) == len(found)
    return by_stage


def history(folder: Path, model: Any, name: str) -> list[tuple[int, float]]:
    points = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").get_metric_history(model.info.run_id, name)
    return [(point.step, point.value) for point in points]


def report(folder: Path, model: Any) -> str:
    """Return MLflow's copy of the report."""
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return Path(client.download_artifacts(model.info.run_id, "reports/index.html")).read_text(encoding="utf-8")


def assert_complete(folder: Path, model: Any, metrics: Path) -> None:
    """Check that a model's run has all parameters, curves and test metrics, each only once."""
    test, train = (json.loads((metrics / f"{name}.json").read_text()) for name in ("test", "train"))
    for name in ("hr_10", "hr_100", "mrr"):
        assert history(folder, model, f"test/all/{name}") == [(0, test["all"][name])]
    assert history(folder, model, "test/domain/Toys/mrr") == [(0, test["domain"]["Toys"]["mrr"])]
    assert history(folder, model, "val/best/ndcg_10") == [(0, train["best"]["ndcg_10"])]
    lines = [line.split(",") for line in (metrics / "curve.csv").read_text().splitlines()]
    assert model.data.params["train.stop_by"] in lines[0]
    for column, name in enumerate(lines[0]):
        if name not in ("epoch", "loss", "tape_norm"):
            points = [(int(line[0]), float(line[column])) for line in lines[1:]]
            assert history(folder, model, f"val/{name}") == points
    assert len(history(folder, model, "train/loss")) == len(lines) - 1
    assert {"source.release", "ingest.threads", "model.width", "evaluate.ks"} <= set(model.data.params)
    assert model.info.status == "FINISHED"
    assert model.data.tags["model_hash"]


def test_a_first_repro_logs_the_models_run_with_those_of_its_stages_below_it(checkout: Path) -> None:
    (model,) = runs_of(checkout, "train")
    assert_complete(checkout, model, checkout / "metrics")
    commit = run(["git", "rev-parse", "HEAD"], checkout).strip()
    assert model.info.run_name == f"train · {commit[:7]}"
    tags = model.data.tags
    assert tags["git_commit"] == commit
    assert tags["code_hash"] == code_hash(checkout)
    assert tags["model_hash"] == content_hash(checkout / "models")
    assert tags["data_hash"] == content_hash(checkout / "data/sequences")
    assert "restored" not in tags
    lock = read_yaml(checkout / "dvc.lock")["stages"]
    assert tags["dvc_md5/models"] == lock["train"]["outs"][0]["md5"]
    assert "Test: HR@10" in tags["mlflow.note.content"]
    assert {"duration_seconds", "tokens_per_second", "peak_memory_mb"} <= {
        name.removeprefix("stage/") for name in model.data.metrics
    }
    assert "system/process_memory_usage_megabytes" in model.data.metrics
    assert {"cpu", "cpu_arithmetic", "cores", "memory_gb", "python"} <= set(tags)
    (read,) = model.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == ("sequences", tags["data_hash"][:36])
    client = MlflowClient(f"sqlite:///{checkout / 'mlflow.db'}")
    for folder, name in (("reports", "index.html"), ("models", "config.json"), ("metrics", "test.json")):
        assert f"{folder}/{name}" in [file.path for file in client.list_artifacts(model.info.run_id, folder)]
    origin = {"Commit": commit, "Processor": tags["cpu"], "Device": tags["device"]}
    assert report(checkout, model) == with_origin((checkout / "reports/index.html").read_text(), origin)
    under = children(checkout, model)
    assert set(under) == STAGES
    for stage, child in under.items():
        assert child.info.run_name == f"{stage} · {commit[:7]}"
        assert "restored" not in child.data.tags
        for out in lock[stage]["outs"]:
            assert child.data.tags[f"dvc_md5/{out['path']}"] == out["md5"]
        for dep in lock[stage]["deps"]:
            assert json.loads(child.data.tags["dvc_inputs"])[dep["path"]] == dep["md5"]


def test_a_repro_that_changes_nothing_adds_no_run_and_one_that_restores_finds_the_former_run(
    narrow: Path, reproduced: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {model.info.run_id: model.data for model in runs_of(narrow)}
    with monkeypatch.context() as traced:
        traced.setenv("PYTHONPROFILEIMPORTTIME", "1")
        printed = run(["dvc", "repro"], narrow)
    imported = {line.rpartition("|")[2].strip() for line in printed.splitlines() if line.startswith("import time:")}
    assert "tapestry.tracking.record" in imported
    assert not imported & {"mlflow", "torch"}  # seconds each, and nothing is to be done
    assert {model.info.run_id for model in runs_of(narrow)} == set(before)
    first, second = runs_of(narrow, "train")
    assert_complete(narrow, second, narrow / "metrics")
    assert (first.data.params["model.state_dim"], second.data.params["model.state_dim"]) == ("8", "4")
    under = children(narrow, second)
    assert set(under) == STAGES
    assert {stage for stage, child in under.items() if "restored" not in child.data.tags} == {"evaluate"}
    originals = children(narrow, first)
    for stage in STAGES - {"evaluate"}:
        assert under[stage].data.tags["made_by"] == originals[stage].info.run_id
    assert content_hash(narrow / "metrics") != content_hash(reproduced / "metrics")
    set_parameters(narrow, {"model.state_dim": 8, "train.epochs": 2, "train.stop_by": "ndcg_10"})
    assert repro(narrow) == {"figures"}  # the others come from DVC's run cache
    assert content_hash(narrow / "metrics") == content_hash(reproduced / "metrics")
    after = {run.info.run_id: run.data.metrics for run in runs_of(narrow)}
    assert after == {run_id: data.metrics for run_id, data in before.items()}


def experiment_figures(folder: Path, name: str, to: Path) -> Path:
    """Write the figures that are in the commit of an experiment to a folder, and return it."""
    (commit_of,) = run(["git", "for-each-ref", "--format=%(objectname)", f"refs/exps/**/{name}"], folder).split()
    to.mkdir()
    for file in ("test.json", "train.json", "curve.csv"):
        (to / file).write_text(run(["git", "show", f"{commit_of}:metrics/{file}"], folder))
    return to


def assert_own(folder: Path, name: str, model: Any, figures: Path) -> None:
    """Check that the run of an experiment's model is complete, is named after it, and has its stages and report."""
    assert model.info.run_name == f"train · {name}"
    assert_complete(folder, model, figures)
    commit = run(["git", "rev-parse", "HEAD"], folder).strip()
    assert model.data.tags["git_commit"] == commit
    assert set(children(folder, model)) == STAGES
    processor = runs_of(folder, "train")[0].data.tags["cpu"]
    origin = {"Commit": commit, "DVC experiment": name, "Processor": processor, "Device": "cpu"}
    rows = [f'<tr><th scope="row">{html.escape(k)}</th><td>{html.escape(v)}</td></tr>' for k, v in origin.items()]
    assert "\n".join(rows) in report(folder, model)


@pytest.mark.parametrize(
    ("elsewhere", "settings"),
    [
        ([], {"cutoffs": ["evaluate.ks=[1,3,10,100]"], "same": ["model.state_dim=8"]}),
        (["--temp"], {"again": NARROW, "same": ["model.state_dim=8"]}),
    ],
)
def test_each_experiment_has_its_own_complete_run(
    narrow: Path, tmp_path: Path, elsewhere: list[str], settings: dict[str, Sequence[str]]
) -> None:
    """Also an experiment with the same model as another one, and one in which nothing is new."""
    run(["git", "stash", "--quiet"], narrow)
    figures = {"narrow": experiment_figures(narrow, "narrow", tmp_path / "narrow")}
    for name, values in settings.items():
        ran = experiment(narrow, *elsewhere, "--name", name, *(word for value in values for word in ("-S", value)))
        assert ran == {"figures"} | ({"report"} if name == "cutoffs" else set())
        if not elsewhere:
            run(["git", "stash", "--quiet"], narrow)
        figures[name] = experiment_figures(narrow, name, tmp_path / name)
    by_name = {model.data.tags["dvc_exp"]: model for model in runs_of(narrow, "train")}
    assert len(runs_of(narrow, "train")) == 2 + len(settings)
    assert set(by_name) == {"", "narrow", *settings}
    for name, values in {"narrow": NARROW, **settings}.items():
        assert_own(narrow, name, by_name[name], figures[name])
        for value in values:
            key, _, text = value.partition("=")
            assert by_name[name].data.params[key] == text.replace("[", "(").replace(",", ", ").replace("]", ")")
    first, second = (by_name[name].info.run_id for name in ("", "narrow"))
    made_by = {"": None, "narrow": None, "cutoffs": first, "same": first, "again": second}
    assert {name: model.data.tags.get("made_by") for name, model in by_name.items()} == {
        name: made_by[name] for name in by_name
    }
    assert "test/all/hr_3" not in by_name[""].data.metrics
    if "cutoffs" in settings:
        assert history(narrow, by_name["cutoffs"], "test/all/hr_3") != []
    else:
        assert by_name["again"].data.tags["model_hash"] == by_name["narrow"].data.tags["model_hash"]


def test_a_queue_of_two_workers_and_a_stage_by_hand_log_to_the_same_store(checkout: Path, tmp_path: Path) -> None:
    run(["dvc", "exp", "run", "--queue", "-S", "model.state_dim=4,6"], checkout)
    run(["dvc", "exp", "run", "--run-all", "--jobs", "2"], checkout)
    models = runs_of(checkout, "train")
    assert sorted(model.data.params["model.state_dim"] for model in models) == ["4", "6", "8"]
    for model in models[1:]:
        name = model.data.tags["dvc_exp"]
        assert "made_by" not in model.data.tags
        assert_own(checkout, name, model, experiment_figures(checkout, name, tmp_path / name))
    run(["python", "stages/run.py", "fetch", "Books"], checkout)
    sync(checkout)
    assert len(runs_of(checkout, "train")) == 3
    assert len([run for run in runs_of(checkout, "fetch") if "restored" not in run.data.tags]) == 3
    assert list((checkout / "mlflow.pending").iterdir()) == []


def test_record_by_hand_is_an_error(checkout: Path) -> None:
    with pytest.raises(AssertionError, match=r"record: error: record: logs the contents of dvc\.lock to MLflow, so"):
        run(["python", "stages/run.py", "record"], checkout)
