"""A moved or copied checkout finds its artifacts, and writes nothing into the original checkout."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections import OrderedDict
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils
from tiny_checkout import runs_of
from typer.testing import CliRunner

from tapestry.cli import app
from tapestry.core.errors import TapestryError
from tapestry.tracking.relocate import relocate, stale_locations
from tapestry.tracking.store import open_store, sqlite_uri, store_uri

ROWS = "SELECT artifact_location FROM experiments UNION ALL SELECT artifact_uri FROM runs"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout's store with a run, its artifact and a registered model, to copy."""
    folder = tmp_path_factory.mktemp("made") / "what? #1%"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        at(folder, patch)
        client, experiment = open_store()
        run_id = client.create_run(experiment).info.run_id
        client.log_text(run_id, "<p>", "reports/index.html")
        (folder / "echo.py").write_text(
            "import mlflow\n"
            "class Echo(mlflow.pyfunc.PythonModel):\n"
            "    def predict(self, context, model_input):\n"
            "        return open(context.artifacts['word']).read()\n"
            "mlflow.models.set_model(Echo())\n"
        )
        (folder / "word.txt").write_text("echo")
        command = (
            "import mlflow, sys; mlflow.set_tracking_uri(sys.argv[1]); mlflow.start_run(run_id=sys.argv[2]); "
            "mlflow.pyfunc.log_model(name='model', python_model='echo.py', artifacts={'word': 'word.txt'}, "
            "registered_model_name='tapestry', pip_requirements=[])"
        )
        subprocess.run([sys.executable, "-c", command, store_uri(), run_id], cwd=folder, check=True)
    return folder


def at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


@pytest.fixture(autouse=True)
def forget_locations(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow remembers the location of a run for as long as its process lives."""
    monkeypatch.setattr(utils, "_artifact_repos_cache", OrderedDict())


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def locations(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        return [uri for (uri,) in connection.execute(ROWS)]


def load_and_predict(folder: Path) -> str:
    command = (
        "import mlflow, pandas, sys; mlflow.set_tracking_uri(sys.argv[1]); "
        "print(mlflow.pyfunc.load_model('models:/tapestry/1').predict(pandas.DataFrame({'a': [1]})))"
    )
    uri = sqlite_uri(folder / "mlflow.db")
    done = subprocess.run([sys.executable, "-c", command, uri], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def reports(folder: Path) -> list[str]:
    utils._artifact_repos_cache.clear()
    client = MlflowClient(sqlite_uri(folder / "mlflow.db"))
    experiment = client.get_experiment_by_name("tapestry")
    assert experiment is not None
    (row,) = client.search_runs([experiment.experiment_id])
    found = client.list_artifacts(row.info.run_id, "reports")
    return [Path(client.download_artifacts(row.info.run_id, file.path)).read_text() for file in found]


def test_the_artifacts_of_a_moved_checkout_can_be_opened_after_one_command(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shutil.copytree(made, tmp_path / "first")
    at(first, monkeypatch)
    assert CliRunner().invoke(app, ["relocate"]).exit_code == 0
    moved = at(first.rename(tmp_path / "moved"), monkeypatch)
    assert reports(moved) == []  # MLflow looks in the old folder
    assert stale_locations(moved / "mlflow.db") == [f"{first}/mlartifacts"]
    result = CliRunner().invoke(app, ["relocate"])
    assert result.output == (
        f"{moved}/mlflow.db was created in another folder: 5 artifact locations now refer to {moved}/mlartifacts, "
        f"no longer to {first}/mlartifacts\n"
    )
    assert stale_locations(moved / "mlflow.db") == []
    assert reports(moved) == ["<p>"]
    assert load_and_predict(moved) == "echo"
    assert not first.exists()
    before = (moved / "mlflow.db").read_bytes()
    again = CliRunner().invoke(app, ["relocate"])
    assert again.output == f"nothing to do: the artifacts of {moved}/mlflow.db are in {moved}/mlartifacts\n"
    assert (moved / "mlflow.db").read_bytes() == before


def test_a_copy_writes_nothing_into_the_original(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(made)
    copy = at(shutil.copytree(made, tmp_path / "a copy"), monkeypatch)
    client, experiment = open_store()
    assert capsys.readouterr().err == (
        f"MLflow: {copy}/mlflow.db was created in another folder: 5 artifact locations now refer to "
        f"{copy}/mlartifacts, no longer to {made}/mlartifacts\n"
    )
    (old,) = client.search_runs([experiment])
    new = client.create_run(experiment).info.run_id
    for run_id in (old.info.run_id, new):
        client.log_text(run_id, "new", "new.txt")
        assert (copy / "mlartifacts" / run_id / "artifacts/new.txt").read_text() == "new"
    assert files(made) == before
    open_store()
    assert capsys.readouterr().err == ""


def test_a_stage_of_a_copied_checkout_logs_to_the_copys_store(
    reproduced: Path, narrowed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The experiment `narrow` ran in a copy of `reproduced`, after the file `made` was written beside that."""
    finished = (reproduced.parent / "made").stat().st_mtime_ns
    assert [path for path, (written, _) in files(reproduced).items() if written > finished] == []
    copy = at(shutil.copytree(narrowed, tmp_path / "copy"), monkeypatch)
    assert stale_locations(narrowed / "mlflow.db") == []
    open_store()  # relocates this second copy, which the test may read
    client = MlflowClient(sqlite_uri(copy / "mlflow.db"))
    rows = runs_of(copy, "train")
    assert len(rows) == 2
    for row in rows:
        (report,) = client.list_artifacts(row.info.run_id, "reports")
        for folder in (narrowed, copy):
            assert (folder / "mlartifacts" / row.info.run_id / "artifacts" / report.path).is_file()


def test_a_database_copied_without_its_artifacts_asks_for_them(made: Path, tmp_path: Path) -> None:
    shutil.copy(made / "mlflow.db", tmp_path)
    assert relocate(tmp_path / "mlflow.db").endswith(
        f"; copy {made}/mlartifacts to {tmp_path}/mlartifacts, the artifacts are not there yet"
    )


def test_locations_that_are_not_tapestrys_stay_unchanged(made: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(made / "mlflow.db", tmp_path))
    foreign = [f"{made.as_uri()}/mlartifacts-2/x", "s3://bucket/mlartifacts", "file:///data/artifacts", "mlruns/7"]
    with closing(sqlite3.connect(file)) as connection:
        for number, uri in enumerate(foreign, 100):
            connection.execute(
                "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, workspace) "
                "VALUES (?, ?, ?, 'active', 'default')",
                (number, uri, uri),
            )
        connection.commit()
    assert relocate(file)
    found = locations(tmp_path)
    assert set(foreign) <= set(found)
    ours = [uri for uri in found if uri not in foreign]
    assert len(ours) == 3
    assert all(uri.startswith(f"{tmp_path.as_uri()}/mlartifacts") for uri in ours)


def test_artifacts_on_another_disk_behind_a_link_are_not_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk/mlartifacts").mkdir(parents=True)
    root = at(tmp_path / "checkout", monkeypatch)
    root.mkdir()
    (root / "mlartifacts").symlink_to(tmp_path / "disk/mlartifacts")
    open_store()
    with closing(sqlite3.connect(root / "mlflow.db")) as connection:
        connection.execute(
            "UPDATE experiments SET artifact_location = ? WHERE name = 'tapestry'",
            ((tmp_path / "disk/mlartifacts").as_uri(),),
        )
        connection.commit()
    assert stale_locations(root / "mlflow.db") == []
    assert relocate(root / "mlflow.db") == ""


def test_either_all_locations_are_changed_or_none(made: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(made / "mlflow.db", tmp_path))
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(
            "CREATE TRIGGER broken BEFORE UPDATE ON model_versions BEGIN SELECT RAISE(ABORT, 'disk I/O error'); END"
        )
        connection.commit()
    before = locations(tmp_path)
    with pytest.raises(sqlite3.IntegrityError, match="disk I/O error"):
        relocate(file)
    assert locations(tmp_path) == before
    assert stale_locations(file) == [f"{made}/mlartifacts"]


def test_a_locked_store_is_reported_in_one_line(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapestry.tracking.sqlite._LOCK_TIMEOUT", 0.1)
    at(tmp_path, monkeypatch)
    shutil.copy(made / "mlflow.db", tmp_path)
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        result = CliRunner().invoke(app, ["relocate"])
        with pytest.raises(TapestryError, match="database is locked"):
            open_store()
    assert result.exit_code == 1
    assert result.output == (
        f"relocate: error: {tmp_path}/mlflow.db: database is locked: its artifacts can't be looked up in "
        f"{tmp_path}/mlartifacts; end the process that uses it, then run `tapestry relocate`\n"
    )
    assert locations(tmp_path) == locations(made)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "http://user:secret@127.0.0.1:9",
            "http://127.0.0.1:9 is no SQLite store: only SQLite stores can be relocated",
        ),
        ("", "{root}/mlflow.db: there is no store yet; run `dvc repro`"),
    ],
)
def test_a_store_that_can_not_be_relocated_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, message: str
) -> None:
    at(tmp_path, monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    result = CliRunner().invoke(app, ["relocate"])
    assert (result.exit_code, result.output) == (1, f"relocate: error: {message.format(root=tmp_path)}\n")
    assert list(tmp_path.iterdir()) == []
