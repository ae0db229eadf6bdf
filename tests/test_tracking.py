"""One MLflow store for every stage, also when several open it at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tapestry.errors import TapestryError
from tapestry.provenance import content_hash
from tapestry.store import open_store, store_uri
from tapestry.tracking import flatten_metrics, model_run, stage_run

STAGE = """
from tapestry.tracking import stage_run
with stage_run("ingest@Books", {"ingest.threads": 2}) as run:
    run.log_metrics({"rows": 3, "reasons": {"blank line": 1}}, "ingest")
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new store, to copy: making one takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("store")
        patch.setenv("DVC_ROOT", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_store()
        return folder / "mlflow.db"


@pytest.fixture
def stored(root: Path, store: Path) -> None:
    shutil.copy(store, root)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout without a store."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    return tmp_path


def runs() -> list[Run]:
    client = MlflowClient(store_uri())
    experiment = client.get_experiment_by_name("tapestry")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def test_three_stages_at_once_on_a_fresh_store_all_leave_their_row(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("temporary-checkout")
    started = [subprocess.Popen([sys.executable, "-c", STAGE], cwd=elsewhere, env=os.environ) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert (root / "mlflow.db").is_file()
    found = runs()
    assert len(found) == 3
    for run in found:
        assert run.info.status == "FINISHED"
        assert run.data.params == {"ingest.threads": "2"}
        assert run.data.metrics == {"ingest/rows": 3.0, "ingest/reasons/blank line": 1.0}
        assert (run.data.tags["stage"], run.data.tags["domain"]) == ("ingest", "Books")


@pytest.mark.usefixtures("stored")
def test_test_figures_join_the_row_of_the_model_they_are_of() -> None:
    for name in ("a", "b"):
        with stage_run("train", {"model.width": 8}) as run:
            run.tag(model_hash=name)
    with model_run("a", {"model.width": 8}) as run:
        run.log_metrics({"all": {"hr_10": 0.5}}, "test")
    by_hash = {run.data.tags["model_hash"]: run for run in runs()}
    assert by_hash["a"].data.metrics == {"test/all/hr_10": 0.5}
    assert by_hash["b"].data.metrics == {}


@pytest.mark.usefixtures("stored")
def test_a_model_that_the_store_has_not_seen_gets_a_row_marked_restored() -> None:
    for figure in (0.5, 0.6):
        with model_run("a", {"model.width": 8}) as run:
            run.log_metrics({"hr_10": figure}, "test")
    (row,) = runs()
    assert row.data.tags["restored"] == "true"
    assert row.data.params == {"model.width": "8"}
    assert row.data.metrics == {"test/hr_10": 0.6}


@pytest.mark.usefixtures("stored")
def test_a_stage_that_fails_says_why_in_its_row_and_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, stage_run("sessionize", {}):
        raise TapestryError("no user is left")
    assert end.value.code == 1
    printed = capsys.readouterr().err
    assert "sessionize: error: no user is left\n" in printed
    assert "Traceback" not in printed
    (row,) = runs()
    assert row.info.status == "FAILED"
    assert row.data.tags["error"] == "TapestryError: no user is left"


def test_figures_are_named_by_their_path() -> None:
    nested = {"n": 2, "all": {"hr_10": 0.1, "name": "x", "flag": True}}
    assert flatten_metrics(nested, "test") == {"test/n": 2.0, "test/all/hr_10": 0.1}


def test_the_hash_of_a_folder_is_of_names_and_contents_alone(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "deep").mkdir(parents=True)
        (tmp_path / folder / "deep" / "x").write_text("1")
        (tmp_path / folder / "y").write_text("2")
    first = content_hash(tmp_path / "a")
    assert first == content_hash(tmp_path / "b")
    (tmp_path / "b" / "y").write_text("3")
    assert first != content_hash(tmp_path / "b")
    (tmp_path / "b" / "y").rename(tmp_path / "b" / "z")
    (tmp_path / "b" / "z").write_text("2")
    assert first != content_hash(tmp_path / "b")
