"""Figures beside published ones, recomputed by plain loops, and the folders of benchmarks/protocols."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from runpy import run_path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest
from checkouts import ROOT
from small import random_sequences
from tiny_checkout import read_yaml

from tapestry.core.errors import TapestryError
from tapestry.core.splits import TEST
from tapestry.evaluation.ranking import Ranks
from tapestry.evaluation.ranks import ranks_table
from tapestry.parameters import load_parameters
from tapestry.sequences.reader import read_sequences
from tapestry.studies.published import Published, compare_with_published, read_published
from tapestry.studies.trials import changed_section
from tapestry.training.settings import TrainSettings

ABXI = ROOT / "benchmarks/protocols/abxi"
ABXI_SETS = ("beauty_electronics", "food_kitchen")


def trials(seeds: int) -> list[pa.Table]:
    sequences = random_sequences(3, users=40)
    targets = sequences.targets(TEST)
    generator = np.random.default_rng(1)
    return [
        ranks_table(sequences, targets, Ranks(generator.integers(1, 60, len(targets)), np.full(len(targets), 60)))
        for _ in range(seeds)
    ]


def test_our_figures_are_means_over_seeds_and_the_domains_targets() -> None:
    tables = trials(3)
    wanted = [Published("D1", "hr_1_of_1", 0.4, 0.01), Published("D1", "mrr_of_1", 0.5, None)]
    hr, mrr = compare_with_published(tables, wanted)
    of_seeds = []
    for table in tables:
        # One negative among 59 others: the target is first unless one of the better ones is drawn.
        first = [1 - (row["rank"] - 1) / 59 for row in table.to_pylist() if row["domain"] == "D1"]
        of_seeds.append(sum(first) / len(first))
    mean = sum(of_seeds) / 3
    assert hr["ours"] == pytest.approx(mean, abs=1e-5)
    assert hr["ours_sd"] == pytest.approx(math.sqrt(sum((x - mean) ** 2 for x in of_seeds) / 2), abs=1e-5)
    assert hr["change"] == pytest.approx(mean / 0.4 - 1, abs=1e-5)
    assert hr["low"] < hr["change"] < hr["high"]
    assert (hr["published"], hr["published_sd"], hr["seeds"]) == (0.4, 0.01, 3)
    assert mrr["ours"] == pytest.approx((1 + mean) / 2, abs=1e-5)  # first, or second of two
    assert mrr["published_sd"] == ""
    assert hr["targets"] == sum(row["domain"] == "D1" for row in tables[0].to_pylist())


def test_published_figures_of_another_set_are_an_error(tmp_path: Path) -> None:
    file = tmp_path / "published.csv"
    file.write_text("data,domain,metric,mean,sd\nbooks,B,hr_5_of_99,0.5,\n")
    assert read_published(file, "books") == [Published("B", "hr_5_of_99", 0.5, None)]
    with pytest.raises(TapestryError, match=r"published\.csv: no figures of toys"):
        read_published(file, "toys")


@pytest.mark.parametrize("data", ABXI_SETS)
def test_a_params_file_of_a_protocol_is_one_that_the_pipeline_takes(data: str) -> None:
    parameters = load_parameters(ABXI / f"{data}.yaml")
    published = read_published(ABXI / "published.csv", data)
    assert {figure.domain for figure in published} == set(parameters.source.domains)
    assert {figure.metric for figure in published} == {
        f"{name}_of_{parameters.evaluate.sampled_negatives}" for name in ("hr_5", "hr_10", "ndcg_10", "mrr")
    }
    assert parameters.source.path == f"benchmarks/protocols/abxi/raw/{data}"
    for recipe in read_yaml(ABXI / "recipes.yaml").values():
        changed_section(TrainSettings, "train", recipe["train"], ABXI / f"{data}.yaml")


def test_the_sets_of_abxi_differ_in_their_source_alone() -> None:
    first, second = (read_yaml(ABXI / f"{data}.yaml") for data in ABXI_SETS)
    assert first.pop("source") != second.pop("source")
    assert first == second


def test_abxis_files_become_raw_files_in_the_published_order(tmp_path: Path) -> None:
    module = run_path(str(ABXI / "abxi_protocol.py"))
    (tmp_path / "sequences.txt").write_text("0 3|86400 1|86400 2|172800\n1 1|1 3|2\n")
    (tmp_path / "items.json").write_text(json.dumps({"B1": [1, 0], "B2": [2, 0], "B3": [3, 1]}))
    (tmp_path / "users.json").write_text(json.dumps({"A1": 0, "A2": 1}))
    files = tmp_path / "sequences.txt", tmp_path / "items.json", tmp_path / "users.json"
    module["write_raw_files"](*files, ("Beauty", "Electronics"), tmp_path / "raw")

    def rows(name: str) -> list[list[str]]:
        with (tmp_path / f"raw/{name}.csv").open(newline="") as file:
            return list(csv.reader(file))

    head = ["user_id", "item_id", "timestamp", "position"]
    assert rows("Beauty") == [head, ["A1", "B1", "86400", "1"], ["A1", "B2", "172800", "2"], ["A2", "B1", "1", "0"]]
    assert rows("Electronics") == [head, ["A1", "B3", "86400", "0"], ["A2", "B3", "2", "1"]]
    (tmp_path / "users.json").write_text(json.dumps({"A1": 0}))
    with pytest.raises(TapestryError, match=r"sequences\.txt: user 1, item 1: not in users\.json or items\.json"):
        module["write_raw_files"](*files, ("Beauty", "Electronics"), tmp_path / "raw")


@pytest.fixture
def abxi(tmp_path: Path) -> Iterator[ModuleType]:
    """The script of ABXI's protocol in a folder of its own, whose publishers are a server on this machine."""
    for name in ("abxi_protocol.py", "recipes.yaml", "published.csv", *(f"{data}.yaml" for data in ABXI_SETS)):
        shutil.copy(ABXI / name, tmp_path / name)
    site = tmp_path / "site/abe"
    site.mkdir(parents=True)
    (site / "map_item_50.txt").write_text(json.dumps({f"B{item}": [item, item % 2] for item in range(1, 31)}))
    (site / "map_user_50.txt").write_text(json.dumps({f"A{user}": user for user in range(20)}))
    generator = np.random.default_rng(0)
    lines = [
        " ".join([str(user), *(f"{item}|{1_300_000_000 + 86_400 * (n // 2)}" for n, item in enumerate(items))])
        for user, items in enumerate(generator.permuted(np.tile(np.arange(1, 31), (20, 1)), axis=1)[:, :8])
    ]
    (site / "abe_50_preprocessed.txt").write_text("\n".join(lines) + "\n")
    handler = partial(SimpleHTTPRequestHandler, directory=str(site.parent))
    spec = importlib.util.spec_from_file_location("abxi_protocol", tmp_path / "abxi_protocol.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        module.__dict__["SOURCE"] = f"http://127.0.0.1:{server.server_address[1]}"
        yield module
        server.shutdown()


def test_a_set_of_abxi_is_fetched_checked_and_made_sequences_of(abxi: ModuleType, tmp_path: Path) -> None:
    abxi.fetch("beauty_electronics")
    abxi.data("beauty_electronics")
    sequences = read_sequences(tmp_path / "data/beauty_electronics/sequences")
    lines = (tmp_path / "site/abe/abe_50_preprocessed.txt").read_text().splitlines()
    for line in lines:  # each user's items in the published order, of which the last is the test target
        user, *steps = line.split()
        number = sequences.user_id.tolist().index(f"A{user}")
        own = slice(sequences.offsets[number], sequences.offsets[number + 1])
        assert sequences.item_id[sequences.item[own]].tolist() == [f"B{step.partition('|')[0]}" for step in steps]
        assert sequences.split[own].tolist() == [0] * 6 + [1, 2]
    shutil.rmtree(tmp_path / "downloads")
    with (tmp_path / "site/abe/abe_50_preprocessed.txt").open("a") as file:
        file.write("19 1|1300000000\n")
    with pytest.raises(TapestryError, match=r"abe_50_preprocessed\.txt.*checksums\.json"):
        abxi.fetch("beauty_electronics")
