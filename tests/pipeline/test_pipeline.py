"""The pipeline, run by DVC: which stages a change reruns, and the outputs of stages."""

from __future__ import annotations

import ast
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from checkouts import ROOT, environment, set_parameters
from tiny_checkout import BASELINES, DOMAINS, read_yaml, repro, run, run_for_output, runs_of, stage_names

from tapestry.core.settings import flatten
from tapestry.parameters import Parameters
from tapestry.provenance.hashes import content_hash

# The code that starts, identifies and logs a stage. No output depends on it.
LOGGING = ("src/tapestry/tracking/", "src/tapestry/provenance/")
LAYERS = [  # a package imports only from itself and from those before it
    "core",
    "tables",
    "source",
    "ingest",
    "sessionize",
    "sequences",
    "parallel",
    "model",
    "training",
    "evaluation",
    "baselines",
    "figures",
    "recommending",
    "report",
    "studies",
]

READS = {  # stage → the parameters and whole sections that it reads
    "fetch": set(),  # what determines raw data reaches it through the fingerprints of the stage `source`
    "ingest": {"ingest"},
    "sessionize": {"sessionize", "source.domains"},
    "baseline": {f"evaluate.{key}" for key in ("exclude_seen", "batch_users", "neighbours", "threads")} | {"peers"},
    "train": {"model", "train", "evaluate.exclude_seen"},
    "evaluate": {
        f"evaluate.{key}" for key in ("exclude_seen", "batch_users", "device", "threads", "processes", "item_table")
    },
    "figures": {"evaluate.ks", "evaluate.sampled_negatives", "evaluate.baselines"},
    "report": {"source.release", "sessionize.split", "sessionize.seed", "train.seed", "synthetic.seed"},
}


def imported_files(script: Path) -> set[str]:
    """Return the paths of Tapestry's modules that a script imports, directly or indirectly."""
    found: set[str] = set()
    pending = [script]
    while pending:
        for node in ast.walk(ast.parse(pending.pop().read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tapestry."):
                path = ROOT / "src" / (str(node.module).replace(".", "/") + ".py")
                name = path.relative_to(ROOT).as_posix()
                assert path.is_file(), f"{script}: import the module that defines the name, not {node.module}"
                if name not in found and not name.startswith(LOGGING):
                    found.add(name)
                    pending.append(path)
    return found


@pytest.mark.parametrize("stage", read_yaml(ROOT / "dvc.yaml")["stages"])
def test_a_stage_declares_exactly_the_packages_it_imports(stage: str) -> None:
    spec = read_yaml(ROOT / "dvc.yaml")["stages"][stage]
    if spec.get("always_changed"):
        return
    code = [name for name in spec["deps"] if name.startswith(("src/", "stages/"))]
    scripts = [ROOT / f"stages/{stage}.py", *((ROOT / "baselines").glob("*.py") if stage == "baseline" else [])]
    imported = {str(Path(name).parent) for script in scripts for name in imported_files(script)}
    tops = {"/".join(Path(name).parts[:3]) for name in imported}
    assert code == [f"stages/{stage}.py", *sorted(tops)]


@pytest.mark.parametrize("package", LAYERS)
def test_a_package_imports_only_from_layers_below(package: str) -> None:
    below = [*LAYERS[: LAYERS.index(package) + 1], *(["tracking"] if package == "studies" else [])]  # they log runs
    files = list((ROOT / "src/tapestry" / package).rglob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tapestry."):
                target = str(node.module).split(".")[1]
                assert target in below, f"{file} imports {node.module}"


def test_only_tracking_and_audit_import_mlflow() -> None:
    importers = set()
    for file in [*(ROOT / "src/tapestry").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(module.split(".")[0] == "mlflow" for module in modules):
                importers.add(file.parent.name)
    assert importers == {"tracking", "audit"}


@pytest.fixture(scope="module")
def checkout(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(reproduced, tmp_path_factory.mktemp("pipeline") / "checkout")


@pytest.fixture
def original(checkout: Path) -> Iterator[Path]:
    """The checkout; its parameters are restored afterwards."""
    before = (checkout / "params.yaml").read_text()
    yield checkout
    (checkout / "params.yaml").write_text(before)


def other_value(value: Any) -> Any:
    """Return another value of the same type; `dvc status` doesn't check whether it is valid."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, tuple):
        return [*value, 1000]
    return f"{value}-other"


def test_dvc_sees_each_parameter_change_for_exactly_the_stages_that_read_it(
    original: Path, parameters: Parameters
) -> None:
    from dvc.repo import Repo

    for name, value in flatten(parameters).items():
        if name not in ("source.domains", "evaluate.baselines"):  # they decide which stages there are
            set_parameters(original, {name: other_value(value)})
    with Repo(str(original)) as repo:
        status = repo.status()
    seen: dict[str, set[str]] = {}
    for stage, changes in status.items():
        for change in changes:
            if isinstance(change, dict):
                seen[stage.rpartition(":")[2]] = set(change.get("changed deps", {}).get("params.yaml", {}))
    expected = {
        full: reads - {"source.domains", "evaluate.baselines"}
        for stage, reads in READS.items()
        if reads
        for full in stage_names(stage)
    }
    assert seen == expected


def test_the_rows_of_each_domain_add_up(checkout: Path) -> None:
    metrics = json.loads((checkout / "metrics/data.json").read_text())
    for rows in [metrics["all"], *metrics["domain"].values()]:
        assert rows["rows_in"] == rows["rows_kept"] + rows["rows_quarantined"] + rows["rows_filtered"] > 0


def test_dvc_compares_only_the_summary(checkout: Path) -> None:
    shown = json.loads(run_for_output(["dvc", "metrics", "show", "--json"], checkout))
    (files,) = (revision["data"] for revision in shown.values())
    summary = json.loads((checkout / "metrics/summary.json").read_text())
    assert {name: figures["data"] for name, figures in files.items()} == {"metrics/summary.json": summary}
    test = json.loads((checkout / "metrics/test.json").read_text())
    assert summary["hr_100"] == test["all"]["hr_100"]
    best = max(figures["hr_100"] for figures in test["baselines"].values())
    assert summary["gain_hr_100"] == pytest.approx(test["all"]["hr_100"] / best - 1)


def test_dvc_plots_a_coloured_line_for_each_method_and_the_validation_curve(checkout: Path) -> None:
    shown = json.loads(run_for_output(["dvc", "plots", "show", "--json"], checkout))
    assert list(shown) == ["data"]  # no errors
    drawn = {name: plot["content"] for name, (plot,) in shown["data"].items()}
    assert set(drawn) == {"HR@K on the test targets", "Validation NDCG@10 by epoch"}
    test = json.loads((checkout / "metrics/test.json").read_text())
    methods = {"tapestry": test["all"], **test["baselines"]}
    ks = [int(name.removeprefix("hr_")) for name in test["all"] if name.startswith("hr_")]
    expected = {(name, k): metrics[f"hr_{k}"] for name, metrics in methods.items() for k in ks}
    plot = drawn["HR@K on the test targets"]
    points = plot["data"]["values"]
    assert {(p["method"], int(p["k"])): float(p["hr"]) for p in points} == expected
    assert plot["encoding"]["color"]["field"] == "method"
    epochs = drawn["Validation NDCG@10 by epoch"]["data"]["values"]
    assert [point["epoch"] for point in epochs] == ["1", "2"]
    assert all(float(point["ndcg_10"]) > 0 for point in epochs)


OUTPUTS = {
    "source": "data/source",
    "fetch": "data/raw/Books",
    "ingest": "data/interactions/Books.parquet",
    "sessionize": "data/sequences",
    "baseline": "data/baselines/popularity.parquet",
    "train": "models",
    "evaluate": "metrics/ranks.parquet",
    "figures": "metrics/data.json",
    "report": "reports/index.html",
}


def test_a_full_disk_ends_each_stage_with_one_line_and_changes_nothing(
    checkout: Path, tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    folder = small_disk(64 << 20)
    # The store is on another disk.
    ignored = shutil.ignore_patterns(".dvc", ".git", "mlflow.db*")
    shutil.copytree(checkout, folder, ignore=ignored, dirs_exist_ok=True)
    (folder / "mlflow.db.lock").touch()
    with suppress(OSError), (folder / "filler").open("ab", 0) as filler:
        while True:
            filler.write(bytes(4096))
    before = content_hash(folder)
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "DVC_ROOT": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    for stage, output in OUTPUTS.items():
        arguments = {"fetch": ["Books"], "ingest": ["Books"], "baseline": ["popularity"]}.get(stage, [])
        done = subprocess.run(
            [sys.executable, "stages/run.py", stage, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1, stage
        line = done.stderr.splitlines()[-1]
        name = "@".join([stage, *arguments])
        assert re.match(rf"{name}: error: {output}: No space left on device: [\d,]+ bytes are free in {folder}", line)
        assert "Traceback" not in done.stderr
        assert content_hash(folder) == before, stage


def swap_domains(folder: Path) -> None:
    settings = json.loads((folder / "models/config.json").read_text())
    for domain, name in zip(settings["domains"], reversed(DOMAINS), strict=True):
        domain["name"] = name
    (folder / "models/config.json").write_text(json.dumps(settings))


def drop_targets(folder: Path) -> None:
    path = folder / "data/baselines/item_knn.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)


@pytest.mark.parametrize(
    ("stage", "output", "spoil", "message"),
    [
        ("evaluate", "ranks.parquet", swap_domains, "models: a model of other data: domain 1 is Toys with"),
        ("figures", "test.json", drop_targets, "data/baselines/item_knn.parquet: not of the same targets as the model"),
    ],
)
def test_a_stage_refuses_inputs_of_different_data(
    checkout: Path, tmp_path: Path, stage: str, output: str, spoil: Callable[[Path], None], message: str
) -> None:
    folder = shutil.copytree(checkout, tmp_path / "copy", ignore=shutil.ignore_patterns(".dvc", ".git"))
    spoil(folder)
    (folder / "metrics" / output).unlink()
    with pytest.raises(AssertionError, match=re.escape(f"{stage}: error: {message}")) as failure:
        run([sys.executable, "stages/run.py", stage], folder)
    assert "Traceback" not in str(failure.value)
    assert not (folder / "metrics" / output).exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model.state_dim", 7, "model.state_dim: 7 is not divisible by model.heads = 2"),
        ("model.dim", 7, "model.dim: unknown parameter"),
        ("source.path", "nowhere", "nowhere"),
    ],
)
def test_a_bad_parameter_stops_the_pipeline_with_one_clear_line(
    original: Path, name: str, value: Any, message: str
) -> None:
    set_parameters(original, {name: value})
    with pytest.raises(AssertionError, match=re.escape(message)) as failure:
        repro(original)
    assert "Traceback" not in str(failure.value)


OF_BASELINES = tuple(f"baseline@{name}" for name in BASELINES)
LESSER = {  # settings that make libraries choose the code for a processor without AVX-512
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR AVX512F AVX512_SKX AVX512_CLX AVX512_CNL",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="these settings are of x86-64 processors")
def test_stages_give_the_same_bytes_on_each_level_of_processor(reproduced: Path, tmp_path: Path) -> None:
    """`reproduced` was made on the processor's own level. Unpinned, two stages are enough to see a difference."""
    unpinned = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "AUTO"}
    levels = {
        "AVX2": (LESSER, (*OF_BASELINES, "train", "evaluate", "figures")),
        "DEFAULT": (unpinned, (*OF_BASELINES, "train")),
    }
    made = {"own": output_hashes(reproduced)}
    (own,) = runs_of(reproduced, "train")
    assert own.data.tags["cpu_arithmetic"].startswith("AVX2 ATEN_CPU_CAPABILITY=avx2 ")
    assert own.data.tags["cpu"]
    for level, (variables, stages) in levels.items():
        ignored = shutil.ignore_patterns(".dvc", ".git", "__pycache__", "raw")
        folder = shutil.copytree(reproduced, tmp_path / level, ignore=ignored)
        for name in ("data/baselines", "models"):
            shutil.rmtree(folder / name)
        (folder / ".dvc").mkdir()  # so that it is a checkout
        for stage in stages:
            command = [sys.executable, "stages/run.py", *stage.split("@")]
            subprocess.run(command, cwd=folder, env=environment() | variables, check=True, stdout=subprocess.DEVNULL)
        made[level] = output_hashes(folder)
        tags = [json.loads(line) for file in folder.glob("mlflow.pending/*/events.jsonl") for line in file.open()]
        (arithmetic,) = {
            value["cpu_arithmetic"] for kind, value in tags if kind == "tags" and "cpu_arithmetic" in value
        }
        assert arithmetic.startswith(f"{level} ATEN_CPU_CAPABILITY={level.lower()} ")
    assert made["own"] == made["AVX2"]
    assert made["own"]["data/baselines"] == made["DEFAULT"]["data/baselines"]
    assert made["own"]["models"] != made["DEFAULT"]["models"]  # so the other two are equal because of the settings


def output_hashes(folder: Path) -> dict[str, str]:
    return {name: content_hash(folder / name) for name in ("data/baselines", "models", "metrics")}
