"""The audit: a clean checkout passes, and each kind of tampering fails the claim about it."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import pickle
import re
import shutil
import sqlite3
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from checkouts import commit, set_parameters
from safetensors.torch import save_file
from tiny_checkout import read_yaml, repro, runs_of
from typer.testing import CliRunner

from tapestry.audit.audit import CLAIMS, audit_checkout
from tapestry.audit.cache import run_key
from tapestry.audit.claims import Claim, Status
from tapestry.audit.differences import differing
from tapestry.audit.evidence import Evidence
from tapestry.audit.pickles import what_pickle
from tapestry.audit.rerun import compare, here
from tapestry.cli import app
from tapestry.provenance.hashes import dvc_md5


def relocate(folder: Path) -> None:
    """Let MLflow find the artifacts of a copied checkout in the copy."""
    own = (folder / "mlartifacts").as_uri()
    with closing(sqlite3.connect(folder / "mlflow.db")) as store, store:
        store.execute("UPDATE experiments SET artifact_location = ? WHERE name = 'tapestry'", [own])
        store.execute("UPDATE runs SET artifact_uri = ? || '/' || run_uuid || '/artifacts'", [own])


@pytest.fixture(scope="module")
def committed(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkout, reproduced and committed, to copy; tests must not change it."""
    folder = shutil.copytree(reproduced, tmp_path_factory.mktemp("audit") / "checkout")
    commit(folder)
    relocate(folder)
    return folder


@pytest.fixture
def checkout(committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return entered(committed, tmp_path, monkeypatch)


def entered(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy a checkout with its store, and make the copy the working directory."""
    folder = shutil.copytree(made, tmp_path / "checkout")
    relocate(folder)
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)
    return folder


def audited(folder: Path) -> dict[str, Claim]:
    return {claim.name: claim for claim in audit_checkout(Evidence(folder), False)}


def failing(claims: dict[str, Claim]) -> set[str]:
    return {name for name, claim in claims.items() if claim.status is Status.FAIL}


def failures_of(claim: Claim) -> str:
    """Return the failing findings of a claim, with their fixes."""
    return "\n".join(f"{f.text} | {f.mend}" for f in claim.findings if f.status is Status.FAIL)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) >= 1
    path.write_text(text.replace(old, new))


def flip(path: Path, offset: int) -> None:
    """Change one bit of the byte at `offset`."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def test_a_clean_checkout_passes_and_mlflow_keeps_the_certificate(checkout: Path) -> None:
    done = CliRunner().invoke(app, ["audit", "--json", "--certificate", "audit.md"])
    found = json.loads(done.stdout)
    assert done.exit_code == 0, done.output
    assert {claim["name"]: claim["status"] for claim in found["claims"]} == dict.fromkeys(CLAIMS, "PASS")
    (row,) = runs_of(checkout, "train")
    assert found["run_id"] == row.info.run_id
    certificate = (checkout / "audit.md").read_text()
    kept = checkout / "mlartifacts" / row.info.run_id / "artifacts" / "audit.md"
    assert kept.read_text() == certificate
    assert "11 PASS, 0 UNKNOWN, 0 FAIL" in certificate
    assert row.data.tags["model_hash"] in certificate
    (checkout / "audit.md").unlink()
    again = CliRunner().invoke(app, ["audit", "--certificate", "audit.md"])
    assert again.exit_code == 0
    assert again.stdout.splitlines()[-1] == "11 PASS, 0 UNKNOWN, 0 FAIL"
    dateless = [re.sub(r"(?m)^\| Date .*$", "", text) for text in (certificate, (checkout / "audit.md").read_text())]
    assert dateless[0] == dateless[1]


def test_code_that_no_stage_depends_on_may_change_but_a_stages_code_may_not(checkout: Path) -> None:
    edit_code(checkout)
    commit(checkout)
    claims = audited(checkout)
    assert failing(claims) == set()
    assert "other code has changed since, at commit" in claims["code"].findings[-1].text
    with (checkout / "src/tapestry/model/network.py").open("a") as file:
        file.write("# edited\n")
    commit(checkout)
    assert failing(audited(checkout)) == {"lock"}


def edit_metrics(folder: Path) -> None:
    mrr = json.loads((folder / "metrics/test.json").read_text())["all"]["mrr"]
    replace(folder / "metrics/test.json", str(mrr), str(mrr + 0.1))
    commit(folder)


def edit_curve(folder: Path) -> None:
    lines = (folder / "metrics/curve.csv").read_text().splitlines()
    lines[-1] = re.sub(r"\d$", lambda digit: str((int(digit[0]) + 5) % 10), lines[-1])
    (folder / "metrics/curve.csv").write_text("\n".join(lines) + "\n")


def edit_lock(folder: Path) -> None:
    (out,) = read_yaml(folder / "dvc.lock")["stages"]["baseline@item_knn"]["outs"]
    replace(folder / "dvc.lock", out["md5"], "f" * 32)
    commit(folder)


def drop_dependency(folder: Path) -> None:
    deps = read_yaml(folder / "dvc.lock")["stages"]["train"]["deps"]
    (size,) = (dep["size"] for dep in deps if dep["path"] == "stages/train.py")
    md5 = next(dep["md5"] for dep in deps if dep["path"] == "stages/train.py")
    replace(
        folder / "dvc.lock", f"    - path: stages/train.py\n      hash: md5\n      md5: {md5}\n      size: {size}\n", ""
    )


def change_parameter(folder: Path) -> None:
    set_parameters(folder, {"train.epochs": 3})
    commit(folder)


def edit_code(folder: Path) -> None:
    with (folder / "src/tapestry/cli.py").open("a") as file:
        file.write("# edited\n")


def add_code(folder: Path) -> None:
    (folder / "src/tapestry/new.py").touch()


def swap_raw(folder: Path) -> None:
    shutil.copy(folder / "raw/Books.json.gz", folder / "raw/Toys.json.gz")
    commit(folder)


def swap_fetched(folder: Path) -> None:
    flip(folder / "data/raw/Toys/Toys.json.gz", 9)


def alter(folder: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(folder / "mlflow.db")) as store, store:
        assert store.execute(statement, values).rowcount == 1


def alter_shown(folder: Path) -> None:
    alter(folder, "UPDATE latest_metrics SET value = 0.99 WHERE key = 'test/all/hr_10'")


def alter_logged(folder: Path) -> None:
    alter(folder, "UPDATE metrics SET value = 0.99 WHERE key = 'val/ndcg_10' AND step = 1")


def write_twice(folder: Path) -> None:
    alter(
        folder,
        "INSERT INTO metrics SELECT key, 0.5, timestamp + 1, run_uuid, step, is_nan FROM metrics "
        "WHERE key = 'test/all/hr_100'",
    )


def alter_seed(folder: Path) -> None:
    alter(folder, "UPDATE params SET value = '8' WHERE key = 'train.seed'")


def lose_device(folder: Path) -> None:
    own = "SELECT run_uuid FROM tags WHERE key = 'stage' AND value = 'evaluate'"
    alter(folder, f"DELETE FROM tags WHERE key = 'device' AND run_uuid IN ({own})")


def alter_data_hash(folder: Path) -> None:
    own = "SELECT run_uuid FROM tags WHERE key = 'stage' AND value = 'sessionize'"
    alter(folder, f"UPDATE tags SET value = 'x' WHERE key = 'input_hash' AND run_uuid IN ({own})")


def alter_input_of_baseline(folder: Path) -> None:
    own = "SELECT run_uuid FROM tags WHERE key = 'baseline' AND value = 'item_knn'"
    alter(folder, f"UPDATE tags SET value = 'x' WHERE key = 'input_hash' AND run_uuid IN ({own})")


def swap_ranks_of_baseline(folder: Path) -> None:
    path = folder / "data/baselines/item_knn.parquet"
    swap_ranks(folder, "baseline@item_knn", path, hashed=[path, path.parent])


def swap_ranks_of_model(folder: Path) -> None:
    path = folder / "metrics/ranks.parquet"
    swap_ranks(folder, "evaluate", path, hashed=[path])


def swap_ranks(folder: Path, stage: str, path: Path, hashed: list[Path]) -> None:
    """Give two targets each other's rank, with dvc.lock's hashes of `hashed` to match, and no trace in DVC's cache."""
    entry_of(folder, stage)[0].unlink()
    before = [dvc_md5(file) for file in hashed]
    table = pq.read_table(path)
    ranks = table["rank"].to_pylist()
    other = next(index for index, rank in enumerate(ranks) if rank != ranks[0])
    ranks[0], ranks[other] = ranks[other], ranks[0]
    column = table.schema.get_field_index("rank")
    path.unlink()
    pq.write_table(table.set_column(column, table.field(column), pa.array(ranks, table.field(column).type)), path)
    for old, new in zip(before, [dvc_md5(file) for file in hashed], strict=True):
        replace(folder / "dvc.lock", old, new)
    commit(folder)


def alter_inputs(folder: Path) -> None:
    own = "SELECT run_uuid FROM tags WHERE key = 'stage' AND value = 'sessionize'"
    old = read_yaml(folder / "dvc.lock")["stages"]["sessionize"]["deps"][0]["md5"]
    alter(
        folder,
        f"UPDATE tags SET value = replace(value, ?, 'x') WHERE key = 'dvc_inputs' AND run_uuid IN ({own})",
        old,
    )


def quarantine(folder: Path) -> None:
    path = folder / "data/quarantine/Toys.parquet"
    row = {"file": "Toys.json.gz", "row": 1, "reason": "no rating", "text": "{}"}
    schema = pq.read_schema(path)
    pq.write_table(pa.Table.from_pylist([row], schema=schema), path)


def add_pickle(folder: Path) -> None:
    (row,) = runs_of(folder, "train")
    with zipfile.ZipFile(folder / "mlartifacts" / row.info.run_id / "artifacts" / "model.bin", "w") as archive:
        archive.writestr("model/data", pickle.dumps({"weights": [1.0, 2.0]}))


def entry_of(folder: Path, stage: str) -> tuple[Path, dict[str, Any]]:
    """Return a stage's entry in the run cache: its path, and the stage's entry in dvc.lock."""
    entry = read_yaml(folder / "dvc.lock")["stages"][stage]
    key = run_key(entry)
    (path,) = (folder / ".dvc/cache/runs" / key[:2] / key).iterdir()
    return path, entry


def put_entry(path: Path, entry: dict[str, Any]) -> None:
    """Replace an entry of the run cache by another one, named as DVC names it."""
    from dvc.stage.cache import _get_cache_hash
    from dvc.utils.serialize import dump_yaml

    path.chmod(0o644)
    path.unlink()
    dump_yaml(str(path.with_name(_get_cache_hash(entry))), entry)


def poison(folder: Path) -> None:
    """Store wrong outputs under the key of this code, as a worker that runs other code could."""
    path, entry = entry_of(folder, "train")
    entry["outs"][0]["md5"] = read_yaml(folder / "dvc.lock")["stages"]["sessionize"]["outs"][0]["md5"]
    put_entry(path, entry)


def edit_entry(folder: Path) -> None:
    path, entry = entry_of(folder, "train")
    path.chmod(0o644)
    replace(path, entry["outs"][0]["md5"], f"{'0' * 32}.dir")


def damage_cached(folder: Path) -> None:
    (out,) = read_yaml(folder / "dvc.lock")["stages"]["train"]["outs"]
    listed = json.loads((folder / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:]).read_text())
    md5 = next(item["md5"] for item in listed if item["relpath"] == "model.safetensors")
    flip(folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:], -1)


@pytest.mark.parametrize(
    ("tamper", "claim", "message", "also"),
    [
        (edit_metrics, "figures", r"metrics/test\.json: line \d+ is '\"mrr\": .* recomputed, .* in the file", {"lock"}),
        (edit_curve, "figures", r"metrics/curve\.csv: line 3 .* in the file, .* in MLflow", {"lock", "code"}),
        (
            edit_lock,
            "lock",
            r"data/baselines/item_knn\.parquet: its MD5 is \w+, dvc\.lock has f{32} \(baseline@item_knn\)",
            {"cache"},
        ),
        (drop_dependency, "lock", r"train: deps of dvc\.lock and dvc\.yaml differ by stages/train\.py", {"code"}),
        (lambda f: flip(f / "models/model.safetensors", -1), "lock", r"models: its MD5 is .* \(train, ", {"figures"}),
        (change_parameter, "lock", r"train\.epochs is 3 in params\.yaml, 2 in dvc\.lock \(train\)", set()),
        (edit_code, "code", r"uncommitted changes: src/tapestry/cli\.py", set()),
        (add_code, "code", r"not in git: src/tapestry/new\.py", set()),
        (swap_raw, "data", r"the raw data of Toys in raw: bytes is \d+, data/source has \d+", set()),
        (swap_fetched, "data", r"data/raw/Toys/Toys\.json\.gz is .*, data/source has sha256 \w+", {"lock"}),
        (alter_shown, "figures", r"test/all/hr_10 in MLflow's lists is 0\.99, metrics/ has 0\.\d+", set()),
        (alter_logged, "figures", r"val/ndcg_10 in MLflow: step 1 is 0\.99, metrics/ has 0\.\d+", set()),
        (write_twice, "figures", r"test/all/hr_100 in MLflow: ", set()),
        (alter_seed, "settings", r"train\.seed is 8 in train · \w+ \(\w+\), 7 in params\.yaml", set()),
        (lose_device, "settings", r"evaluate · \w+ \(\w+\) has no tag device", set()),
        (alter_data_hash, "data", r"data/interactions has the hash \w+, sessionize · .* has x as input_hash", set()),
        (
            alter_input_of_baseline,
            "data",
            r"data/sequences has the hash \w+, baseline@item_knn · .* has x as input_hash",
            set(),
        ),
        (
            swap_ranks_of_baseline,
            "data",
            r"data/baselines/item_knn\.parquet has the hash \w+, baseline@item_knn · .* has \w+ as data_hash",
            {"figures"},  # the last bit of a mean may depend on the order
        ),
        (
            swap_ranks_of_model,
            "data",
            r"metrics/ranks\.parquet has the hash \w+, evaluate · .* has \w+ as data_hash",
            {"figures"},
        ),
        (alter_inputs, "inputs", r"sessionize: data/counts had the MD5 x at the start, dvc\.lock has \w+", set()),
        (quarantine, "rows", r"rows_quarantined, and rows of data/quarantine/Toys\.parquet: 0 and 1", {"lock"}),
        (add_pickle, "pickles", r"mlartifacts/\w+/artifacts/model\.bin: an archive with the pickle model/data", set()),
        (poison, "cache", r"\(train\): would restore models as \w+\.dir, not \w+\.dir", set()),
        (edit_entry, "cache", r"\(train\): its content doesn't match the hash in its name", set()),
        (damage_cached, "cache", r"its content doesn't match the MD5 in its name", set()),
    ],
)
def test_tampering_fails_the_claim_about_it(
    checkout: Path, tamper: Callable[[Path], None], claim: str, message: str, also: set[str]
) -> None:
    tamper(checkout)
    claims = audited(checkout)
    assert re.search(message, failures_of(claims[claim])), failures_of(claims[claim])
    assert {claim} <= failing(claims) <= {claim, *also}
    assert all(finding.mend for found in claims.values() for finding in found.findings if finding.status)


def test_an_upgraded_package_fails(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site" / "numpy-99.0.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "site")
    claims = audited(checkout)
    assert failing(claims) == {"packages"}
    assert "numpy 99.0 is installed, requirements.lock has" in failures_of(claims["packages"])
    assert re.search(r"numpy 99\.0 is installed, train · \w+ \(\w+\) was made with ", failures_of(claims["packages"]))


def test_a_moved_checkout_is_reported_with_the_command_that_fixes_it(checkout: Path, tmp_path: Path) -> None:
    os.rename(checkout / "mlartifacts", tmp_path / "mlartifacts")
    (checkout / "mlartifacts").mkdir()
    with closing(sqlite3.connect(checkout / "mlflow.db")) as store, store:
        store.execute("UPDATE runs SET artifact_uri = '/elsewhere/mlartifacts/' || run_uuid || '/artifacts'")
    claims = audited(checkout)
    assert failing(claims) == {"artifacts"}
    assert "10 runs have their files in /elsewhere/mlartifacts" in failures_of(claims["artifacts"])
    assert "tapestry relocate" in failures_of(claims["artifacts"])


def test_without_a_store_the_claims_that_need_it_are_unknown(checkout: Path) -> None:
    (checkout / "mlflow.db").unlink()
    done = CliRunner().invoke(app, ["audit", "--json"])
    status = {claim["name"]: claim["status"] for claim in json.loads(done.stdout)["claims"]}
    assert done.exit_code == 0
    assert {name for name, found in status.items() if found == "PASS"} == {"lock", "rows", "pickles"}
    assert set(status.values()) == {"PASS", "UNKNOWN"}
    assert not (checkout / "mlflow.db").exists()


def test_an_input_edited_during_a_stage_fails(checkout: Path) -> None:
    set_parameters(checkout, {"model.state_dim": 4})
    command = [sys.executable, "-m", "dvc", "repro"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        while not any('"stage": "train"' in p.read_text() for p in checkout.glob("mlflow.pending/*/events.jsonl")):
            assert process.poll() is None
            time.sleep(0.02)
        with (checkout / "src/tapestry/model/tensors.py").open("a") as file:
            file.write("# edited meanwhile\n")
    assert process.returncode == 0
    commit(checkout)
    claims = audited(checkout)
    assert re.search(r"train: src/tapestry/model changed while it ran \(train · ", failures_of(claims["inputs"]))
    assert failing(claims) == {"inputs"}


def test_a_rerun_passes_or_names_the_first_number_that_differs(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy stands for the rerun; the test below reproduces a run."""
    evidence, rerun = Evidence(checkout), shutil.copytree(checkout, tmp_path / "rerun")
    (found,) = compare(evidence, rerun, lambda path: here(evidence, path))
    assert found.status is Status.PASS
    assert "24 outputs of 14 stages" in found.text
    flip(checkout / "models/model.safetensors", -1)
    table = pq.read_table(checkout / "metrics/ranks.parquet")
    pq.write_table(table.slice(1), checkout / "metrics/ranks.parquet")
    changed = Evidence(checkout)
    first, *others = compare(changed, rerun, lambda path: here(changed, path))
    assert first.status is Status.FAIL
    assert re.match(
        r"train is the first stage that differs: models/model\.safetensors: tensor \S+: 1 of \d+ numbers differ, "
        r"number \d+ is \S+ here, \S+ in the rerun$",
        first.text,
    )
    assert [other.text for other in others] == ["after it differ: evaluate"]
    changed.lock["train"]["params"]["params.yaml"]["train"]["epochs"] = 3
    (tmp_path / "site" / "numpy-99.0.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "site")
    _, *causes, _ = compare(changed, rerun, lambda path: here(changed, path))
    assert causes[0].text == "the rerun of train had the parameter train.epochs 2 in place of 3"
    assert re.match(r"the rerun of train had the package numpy 99\.0 in place of \S+ \(train · ", causes[1].text)
    assert len(causes) == 2


def test_an_old_run_is_reproduced_from_mlflow_and_its_poisoned_cache_entry_is_found(
    narrowed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = entered(narrowed, tmp_path, monkeypatch)
    old, _ = runs_of(checkout, "train")
    path, entry = entry_of(checkout, "train")
    set_parameters(checkout, {"model.state_dim": 8, "train.epochs": 2})
    repro(checkout)
    commit(checkout)
    entry["outs"][0]["md5"] = read_yaml(checkout / "dvc.lock")["stages"]["train"]["outs"][0]["md5"]
    put_entry(path, entry)
    claims = audited(checkout)
    assert failing(claims) == {"cache"}
    assert re.search(r"which train · .* made from the same inputs", failures_of(claims["cache"]))
    # The run and its artifacts are enough; the checkout's data and model aren't needed.
    shutil.rmtree(checkout / "data")
    shutil.rmtree(checkout / "models")
    done = CliRunner().invoke(app, ["audit", "--json", "--run", old.info.run_id])
    claims_of_run = json.loads(done.stdout[done.stdout.index("{") :])["claims"]
    assert {claim["name"]: claim["status"] for claim in claims_of_run} == dict.fromkeys(
        ["code", "rerun", *sorted(set(CLAIMS) - {"code", "lock", "cache"})], "PASS"
    )
    assert done.exit_code == 0


@pytest.mark.usefixtures("checkout")
def test_an_unknown_run_is_reported_with_the_known_ones() -> None:
    done = CliRunner().invoke(app, ["audit", "--run", "nothing"])
    assert done.exit_code == 1
    assert re.search(
        r"audit: error: --run: MLflow has no run 'nothing' of a model; the newest are train · ", done.stderr
    )


class Runs:
    """An object whose pickle calls a function when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.getcwd, ()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_are_recognised_by_content(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps(Runs(), protocol)
    packers: list[Callable[[bytes], bytes]] = [bytes, gzip.compress, zlib.compress, bz2.compress, lzma.compress]
    for number, pack in enumerate(packers):
        (path := tmp_path / f"{number}.bin").write_bytes(pack(content))
        assert what_pickle(path) == ("a packed pickle" if number else "a pickle"), number
    torch.save({"w": torch.zeros(2)}, tmp_path / "model.bin")
    assert "an archive with the pickle" in str(what_pickle(tmp_path / "model.bin"))


def test_a_file_that_only_begins_like_a_pickle_is_none(tmp_path: Path) -> None:
    lengths = set()
    for width in range(500, 1000, 8):  # the first bytes of a safetensors file are the length of its header
        path = tmp_path / "model.safetensors"
        save_file({"w": torch.zeros(1)}, path, {"note": "x" * width})
        lengths.add(path.read_bytes()[:2])
        assert what_pickle(path) is None
    assert {b"\x80\x02", b"\x80\x03"} <= lengths
    (tmp_path / "t").write_text("(a list, of words)\n")
    assert what_pickle(tmp_path / "t") is None


def test_the_first_difference_is_described_by_the_format_of_the_file(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    table = pa.table({"user": ["a", "b", "c"], "rank": [1.0, float("nan"), 3.0]})
    pq.write_table(table, one)
    pq.write_table(table.set_column(1, "rank", pa.array([1.0, float("nan"), 4.0])), other)
    assert differing("x.parquet", one, other, "here", "there") == "row 3, rank is 3.0 here, 4.0 there"
    pq.write_table(table.slice(0, 2), other)
    assert differing("x.parquet", one, other, "here", "there") == "3 rows here, 2 there"
    pq.write_table(table, other, compression="zstd")
    assert differing("x.parquet", one, other, "here", "there").startswith("the same rows, written by")
    one.write_text("a\nb\n")
    other.write_text("a\nc\n")
    assert differing("x.json", one, other, "here", "there") == "line 2 is 'b' here, 'c' there"
    assert differing("x.bin", one, other, "here", "there") == "byte 3 is 98 here, 99 there"
