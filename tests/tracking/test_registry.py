"""Registered models: their files, their predictions, and which version is the champion."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from small import random_sequences, write_checkout
from typer.testing import CliRunner

import tapestry
from tapestry.cli import app
from tapestry.core.errors import TapestryError
from tapestry.sequences.reader import Sequences
from tapestry.tracking import registry
from tapestry.tracking.logged_model import SERVED_PACKAGES
from tapestry.tracking.registry import Registered, champion, choose, register, versions
from tapestry.tracking.store import open_store, store_uri

SOURCE = Path(str(tapestry.__file__)).parents[1]


@pytest.fixture(scope="module")
def sequences() -> Sequences:
    return random_sequences(4)


@pytest.fixture(scope="module")
def made(sequences: Sequences, params_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a model, its sequences and an empty store, to copy."""
    folder = tmp_path_factory.mktemp("made")
    write_checkout(sequences, folder, params_yaml)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_store()
    return folder


@pytest.fixture
def checkout(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the checkout, as the working directory; what loading a model changes is restored afterwards."""
    folder = tmp_path / "checkout"
    shutil.copytree(made, folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr("tapestry.recommending.command.make_deterministic", lambda seed, threads: None)
    monkeypatch.chdir(folder)
    return folder


def add(
    client: MlflowClient, validation: float, model_hash: str = "m", data_hash: str = "d", **options: Any
) -> Registered:
    (experiment,) = client.search_experiments(filter_string="name = 'tapestry'")
    run_id = client.create_run(experiment.experiment_id, tags={"model_hash": model_hash}).info.run_id
    return register(
        client,
        run_id,
        Path("models"),
        Path("data/sequences"),
        validation=validation,
        data_hash=data_hash,
        model_hash=model_hash,
        **({"exclude_seen": True} | options),
    )


def files_of(client: MlflowClient, version: int = 1) -> Path:
    source = client.get_model_version("tapestry", str(version)).source
    location = client.get_logged_model(str(source).removeprefix("models:/")).artifact_location
    return Path(location.removeprefix("file://"))


def recommended(*arguments: str, given: str | None = None) -> list[dict[str, Any]]:
    result = CliRunner().invoke(app, ["recommend", "--json", *arguments], input=given)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def client(checkout: Path) -> MlflowClient:
    client, _ = open_store()
    return client


@pytest.fixture
def champions(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Return a function that loads the champion as a user of MLflow does."""
    add(client, 0.5)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri())
    return lambda: mlflow.pyfunc.load_model("models:/tapestry@champion")


def is_pickle(path: Path) -> bool:
    if zipfile.is_zipfile(path):
        return any(name.endswith(".pkl") for name in zipfile.ZipFile(path).namelist())
    start = path.read_bytes()[:2]
    return path.suffix in (".pkl", ".pickle", ".pt", ".pth", ".bin") or (
        start[:1] == b"\x80" and start[1:2] in b"\2\3\4\5"
    )


def test_a_model_has_no_pickle_and_no_users(client: MlflowClient) -> None:
    add(client, 0.5)
    folder = files_of(client)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"MLmodel", "model.safetensors", "config.json", "items.parquet"}
    assert not [path for path in files if is_pickle(path)]
    flavor = mlflow.models.Model.load(str(folder)).flavors["python_function"]
    assert "python_model" not in flavor
    assert flavor["loader_module"] == "mlflow.pyfunc.loaders.code_model"
    data = {path.relative_to(folder / "artifacts").as_posix() for path in files if folder / "artifacts" in path.parents}
    weights = {f"models/{name}.safetensors" for name in ("model", "neighbours", "recent")}
    assert data == {*weights, "models/config.json", "items.parquet"}
    assert pq.read_schema(folder / "artifacts/items.parquet").names == ["item_id", "domain", "train_count"]
    (folder / "planted").write_bytes(pickle.dumps(data))
    assert is_pickle(folder / "planted")


def test_the_champion_recommends_the_same_as_the_command(champions: Callable[[], Any], sequences: Sequences) -> None:
    model = champions()
    histories = [
        sequences.item_id[sequences.item[sequences.user == user]].tolist() for user in range(len(sequences.user_id))
    ]
    shell = recommended("--everybody", "-k", "4")
    expected = pd.DataFrame([row | {"row": int(row["user_id"][1:])} for row in shell])[
        ["row", "domain", "items", "scores", "unknown"]
    ]
    found = model.predict(pd.DataFrame({"history": histories}), params={"k": 4})
    pd.testing.assert_frame_equal(found, expected)
    nulls = model.predict(pd.DataFrame({"history": histories, "domain": [None] * len(histories)}), params={"k": 4})
    pd.testing.assert_frame_equal(nulls, expected)
    named = model.predict(pd.DataFrame({"history": histories[3:5], "domain": ["D2", "D0"]}), params={"k": 4})
    assert named["row"].tolist() == [0, 1]
    assert named["items"].tolist() == [
        row["items"] for row in shell if (row["user_id"], row["domain"]) in (("u3", "D2"), ("u4", "D0"))
    ]


def test_k_seen_items_and_unknown_ones(champions: Callable[[], Any]) -> None:
    model = champions()
    frame = pd.DataFrame({"history": [["i0", "nope", "i1"], []], "domain": ["D0", "D0"]})
    found = model.predict(frame, params={"k": 99})
    assert found["items"].map(len).tolist() == [8, 0]
    assert found["unknown"].tolist() == [1, 0]
    kept = model.predict(frame, params={"k": 99, "exclude_seen": False})
    assert kept["items"].map(len).tolist() == [10, 0]
    assert model.predict(frame)["items"].map(len).tolist() == [8, 0]
    numbered = pd.DataFrame({"history": [np.array(["i0", "i1"])], "domain": ["D0"]})
    assert model.predict(numbered)["items"].tolist() == found["items"].tolist()[:1]


@pytest.mark.parametrize(
    ("row", "params", "message"),
    [
        ({"history": ["i0"], "domain": "D7"}, {}, "row 0: unknown domain 'D7': the model knows D0, D1, D2"),
        ({"history": ["i0", None], "domain": "D0"}, {}, "row 0: item 2 of the history is None: expected text"),
        ({"history": None, "domain": "D0"}, {}, "row 0: history is None, expected a list of item ids"),
        ({"history": ["i0"], "domain": "D0"}, {"k": 0}, "k is 0, expected 1 or more"),
    ],
)
def test_a_bad_request_is_a_client_error(
    champions: Callable[[], Any], row: dict[str, Any], params: dict[str, Any], message: str
) -> None:
    with pytest.raises(MlflowException, match=re.escape(message)) as caught:
        champions().predict(pd.DataFrame([row]), params=params)
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"  # a server responds with 400


def test_signature_example_and_packages(champions: Callable[[], Any], client: MlflowClient) -> None:
    model = champions()
    assert set(model.metadata.signature.inputs.input_names()) == {"history", "domain"}
    assert [spec.name for spec in model.metadata.signature.params.params] == ["k", "exclude_seen"]
    found = model.predict(model.input_example)
    assert list(found) == model.metadata.signature.outputs.input_names()
    assert found["items"].map(len).min() > 0
    wanted = (files_of(client) / "requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in wanted] == list(SERVED_PACKAGES)
    assert not [line for line in wanted if "+" in line]


def test_the_packages_are_those_that_the_served_code_imports() -> None:
    pending, seen, packages = [SOURCE / "tapestry/tracking/served_model.py"], set(), set()
    while pending:
        path = pending.pop()
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                if name.split(".")[0] == "tapestry":
                    module = SOURCE / (name.replace(".", "/") + ".py")
                    if module.is_file() and module not in seen:
                        seen.add(module)
                        pending.append(module)
                else:
                    packages.add("ruamel.yaml" if name.startswith("ruamel") else name.split(".")[0])
    packages.remove("triton")  # torch brings it along for CUDA, and only there it is imported
    assert packages - set(sys.stdlib_module_names) == set(SERVED_PACKAGES)


def test_a_model_runs_the_code_that_it_was_trained_with(client: MlflowClient, tmp_path: Path) -> None:
    add(client, 0.5)
    moved = shutil.copytree(files_of(client), tmp_path / "moved")
    code = moved / "code/tapestry/recommending/recommendations.py"
    code.write_text(code.read_text().replace("items=catalogue.item_id[top.item].tolist()", 'items=["its own code"]'))
    script = f"""
import mlflow.pyfunc, pandas
model = mlflow.pyfunc.load_model({str(moved)!r})
print(model.predict(pandas.DataFrame({{"history": [["i1"]], "domain": ["D0"]}}))["items"][0])
import tapestry
print(tapestry.__file__)
"""
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['its own code']", str(moved / "code/tapestry/__init__.py")]
    assert "different one" not in done.stderr
    with pytest.warns(
        UserWarning, match="the model has its own tapestry, but this process has already imported a different one"
    ):
        mlflow.pyfunc.load_model(str(moved))


def test_a_process_with_the_same_code_is_not_warned(champions: Callable[[], Any]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        champions()
    assert not [warning for warning in caught if "tapestry" in str(warning.message)]


@pytest.fixture
def served(champions: Callable[[], Any], tmp_path: Path) -> Iterator[str]:
    """Start `mlflow models serve` for the champion, in another folder; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/tapestry@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    log = tmp_path / "serve.log"
    with log.open("w") as output:
        server = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(240):
            with suppress(OSError), urllib.request.urlopen(f"{address}/ping", timeout=5):
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.25)
        yield f"{address}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def post(address: str, body: dict[str, Any]) -> tuple[int, Any]:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_mlflow_serves_the_champion(served: str, client: MlflowClient) -> None:
    histories = [["i0", "i15", "nope"], [{"item_id": "i29", "domain": "D2"}]]
    records = [{"history": history, "domain": "D1"} for history in histories]
    expected = recommended("-k", "3", "--domain", "D1", "--history", "-", given="\n".join(map(json.dumps, histories)))
    status, answer = post(served, {"dataframe_records": records, "params": {"k": 3}})
    assert status == 200
    keys = ("domain", "items", "scores", "unknown")
    assert answer["predictions"] == [
        {"row": index} | {key: row[key] for key in keys} for index, row in enumerate(expected)
    ]
    status, answer = post(served, {"dataframe_records": [{"history": ["i0"]}]})
    assert [row["domain"] for row in answer["predictions"]] == ["D0", "D1", "D2"]
    status, answer = post(served, json.loads((files_of(client) / "serving_input_example.json").read_text()))
    assert (status, len(answer["predictions"])) == (200, 2)
    status, answer = post(served, {"dataframe_records": [{"history": ["i0"], "domain": "D9"}]})
    assert status == 400
    assert "unknown domain 'D9': the model knows D0, D1, D2" in answer["message"]


def test_the_first_model_is_the_champion_until_a_better_one_replaces_it(client: MlflowClient) -> None:
    first = add(client, 0.5, "a")
    assert first == Registered(1, True, True, "made the champion: there was none")
    equal = add(client, 0.5, "b")
    reason = "validation NDCG@10 0.500000, version 1 has 0.500000"
    assert equal == Registered(2, True, False, f"not made the champion: {reason}")
    assert not add(client, 0.4, "c").champion
    better = add(client, 0.5000001, "d")
    assert (better.version, better.champion) == (4, True)
    current = champion(client)
    assert current is not None
    assert int(current.version) == 4
    assert client.get_model_version_by_alias("tapestry", "champion").version == current.version
    assert [found.tags["validation_ndcg_10"] for found in versions(client)] == ["0.5", "0.5", "0.4", "0.5000001"]


def test_metrics_that_do_not_compare_make_no_champion(client: MlflowClient) -> None:
    add(client, 0.1, "a")
    other = add(client, 0.9, "b", data_hash="other")
    assert not other.champion
    assert other.decision == "not made the champion: version 1 is of other data, so their figures don't compare"
    assert "another evaluate.exclude_seen" in add(client, 0.9, "c", exclude_seen=False).decision
    assert "no number" in add(client, float("nan"), "e").decision
    assert add(client, 0.2, "f").champion


def test_a_model_is_registered_once_and_a_choice_by_hand_stays(client: MlflowClient) -> None:
    add(client, 0.1, "a")
    assert add(client, 0.2, "b").champion
    choose(client, version=1)
    again = add(client, 0.2, "b")
    assert (again.version, again.new, again.champion) == (2, False, False)
    assert again.decision.startswith("made the champion: validation")
    assert len(versions(client)) == 2
    models = client.search_logged_models([client.get_experiment_by_name("tapestry").experiment_id])  # type: ignore[union-attr]
    assert len(models) == 2
    assert all(model.status.name == "READY" for model in models)
    assert add(client, 0.15, "c").champion  # better than the one chosen


def test_a_decision_that_a_kill_prevented_is_made_by_the_next_call(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(registry, "_decide", killed)
        with pytest.raises(KeyboardInterrupt):
            add(client, 0.3, "a")
    assert champion(client) is None
    assert add(client, 0.3, "a") == Registered(1, False, True, "made the champion: there was none")


def test_concurrent_calls_register_a_model_once(client: MlflowClient) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda validation: add(client, validation, f"{validation}"), [0.1, 0.3, 0.3, 0.2]))
    assert sorted(one.version for one in found if one.new) == [1, 2, 3]
    current = champion(client)
    assert current is not None
    assert current.tags["model_hash"] == "0.3"


def test_a_run_finds_its_model_in_a_version_of_another_run(client: MlflowClient) -> None:
    add(client, 0.1, "a")
    add(client, 0.2, "b")
    (experiment,) = client.search_experiments(filter_string="name = 'tapestry'")
    restored = client.create_run(experiment.experiment_id, tags={"model_hash": "a"}).info.run_id
    assert int(choose(client, run_id=restored).version) == 1
    untrained = client.create_run(experiment.experiment_id).info.run_id
    for run_id in (untrained, "nonsense"):
        with pytest.raises(
            TapestryError, match=f"run '{run_id}' is no version of the registered model tapestry; there are: 1"
        ):
            choose(client, run_id=run_id)


def test_a_model_that_cannot_be_read_is_not_registered(client: MlflowClient, checkout: Path) -> None:
    (checkout / "models/model.safetensors").write_bytes(b"broken")
    with pytest.raises(TapestryError, match="damaged"):
        add(client, 0.1, "a")
    assert versions(client) == []
    (model,) = client.search_logged_models([client.get_experiment_by_name("tapestry").experiment_id])  # type: ignore[union-attr]
    assert model.status.name == "FAILED"


@pytest.mark.parametrize("uri", [None, "sqlite:///mine.db"])
def test_registering_changes_nothing_in_the_process(
    client: MlflowClient, uri: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if uri is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    before, path = dict(os.environ), sys.path.copy()
    add(client, 0.1)
    assert dict(os.environ) == before
    assert sys.path == path
    assert mlflow.active_run() is None


def shown_champion(*arguments: str) -> tuple[int, list[str]]:
    result = CliRunner().invoke(app, ["champion", *arguments])
    return result.exit_code, (result.stdout + result.stderr).splitlines()


def test_the_command_shows_and_chooses_the_champion(
    client: MlflowClient, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "notebooks").mkdir()
    monkeypatch.chdir(checkout / "notebooks")
    assert shown_champion() == (1, ["champion: error: no registered model yet; run `dvc repro`"])
    monkeypatch.chdir(checkout)
    for validation, name in ((0.1, "a"), (0.2, "b"), (0.9, "c")):
        add(client, validation, name, data_hash="other" if name == "c" else "d")
    monkeypatch.chdir(checkout / "notebooks")

    def marks() -> list[str]:
        return [" ".join(line.split()[:4]) for line in shown_champion()[1][1:]]

    def starred() -> list[str]:
        return [mark for mark in marks() if mark.startswith("*")]

    assert starred() == ["* 2 0.200000 d"]
    status, lines = shown_champion("--version", "3")
    assert status == 0
    assert lines[3].endswith("made the champion by hand")
    assert starred() == ["* 3 0.900000 other"]
    run_id = str(client.get_model_version("tapestry", "1").run_id)
    assert shown_champion("--run", run_id)[0] == 0
    assert starred() == ["* 1 0.100000 d"]
    assert shown_champion("--version", "7")[0] == 1
    assert shown_champion("--version", "1", "--run", run_id) == (
        1,
        ["champion: error: give --version or --run, not both"],
    )


def test_the_command_creates_no_store(checkout: Path) -> None:
    (checkout / "mlflow.db").unlink()
    (line,) = shown_champion()[1]
    assert line == f"champion: error: {checkout / 'mlflow.db'}: no MLflow store yet; run `dvc repro`"
    assert not (checkout / "mlflow.db").exists()
