"""Figures beside published ones, recomputed by plain loops, and the folders of benchmarks/protocols."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from runpy import run_path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkouts import ROOT
from small import random_sequences
from tiny_checkout import read_yaml

from tapestry.core.errors import TapestryError
from tapestry.core.splits import TEST
from tapestry.evaluation.ranking import Ranks
from tapestry.evaluation.ranks import ranks_table
from tapestry.model.settings import ModelSettings
from tapestry.parameters import load_parameters
from tapestry.sequences.reader import Sequences, read_sequences
from tapestry.studies.protocol import write_raw_files
from tapestry.studies.published import Published, compare_with_published, read_published
from tapestry.studies.results import read_csv
from tapestry.studies.trials import changed_section
from tapestry.training.settings import TrainSettings

PROTOCOLS = ROOT / "benchmarks/protocols"
ABXI = PROTOCOLS / "abxi"
ABXI_SETS = ("beauty_electronics", "food_kitchen")
SETS = [("abxi", data) for data in ABXI_SETS] + [("sasrec", "games")]


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


def test_each_set_of_each_protocol_is_tested_below() -> None:
    found = {(file.parent.name, row["data"]) for file in PROTOCOLS.glob("*/published.csv") for row in read_csv(file)}
    assert found == set(SETS)


@pytest.mark.parametrize(("protocol", "data"), SETS)
def test_a_params_file_of_a_protocol_is_one_that_the_pipeline_takes(protocol: str, data: str) -> None:
    folder = PROTOCOLS / protocol
    parameters = load_parameters(folder / f"{data}.yaml")
    published = read_published(folder / "published.csv", data)
    assert {figure.domain for figure in published} == set(parameters.source.domains)
    metrics = ("mrr", *(f"{name}_{k}" for name in ("hr", "ndcg") for k in parameters.evaluate.ks))
    of = f"_of_{parameters.evaluate.sampled_negatives}"
    assert {figure.metric for figure in published} <= {metric + of for metric in metrics}
    assert parameters.source.path == f"benchmarks/protocols/{protocol}/raw/{data}"
    stages = read_yaml(folder / "dvc.yaml")["stages"]
    assert data in stages["train"]["matrix"]["data"]
    recipes = read_yaml(folder / "recipes.yaml")
    assert set(recipes) == set(stages["train"]["matrix"]["recipe"])
    for recipe in recipes.values():
        changed_section(TrainSettings, "train", recipe["train"], folder / f"{data}.yaml")
        changed_section(ModelSettings, "model", recipe["model"], folder / f"{data}.yaml")


def test_the_sets_of_abxi_differ_in_their_source_alone() -> None:
    first, second = (read_yaml(ABXI / f"{data}.yaml") for data in ABXI_SETS)
    assert first.pop("source") != second.pop("source")
    assert first == second


def raw_rows(file: Path) -> list[list[str]]:
    with file.open(newline="") as opened:
        return list(csv.reader(opened))


def test_abxis_files_become_raw_files_in_the_published_order(tmp_path: Path) -> None:
    module = run_path(str(ABXI / "abxi_protocol.py"))
    (tmp_path / "sequences.txt").write_text("0 3|86400 1|86400 2|172800\n1 1|1 3|2\n")
    (tmp_path / "items.json").write_text(json.dumps({"B1": [1, 0], "B2": [2, 0], "B3": [3, 1]}))
    (tmp_path / "users.json").write_text(json.dumps({"A1": 0, "A2": 1}))
    files = tmp_path / "sequences.txt", tmp_path / "items.json", tmp_path / "users.json"
    found = module["published_rows"](*files, ("Beauty", "Electronics"))
    write_raw_files(module["COLUMNS"], found, tmp_path / "raw")
    beauty, electronics = (raw_rows(tmp_path / f"raw/{name}.csv") for name in ("Beauty", "Electronics"))
    head = ["user_id", "item_id", "timestamp", "position"]
    assert beauty == [head, ["A1", "B1", "86400", "1"], ["A1", "B2", "172800", "2"], ["A2", "B1", "1", "0"]]
    assert electronics == [head, ["A1", "B3", "86400", "0"], ["A2", "B3", "2", "1"]]
    (tmp_path / "users.json").write_text(json.dumps({"A1": 0}))
    with pytest.raises(TapestryError, match=r"sequences\.txt: user 1, item 1: not in users\.json or items\.json"):
        module["published_rows"](*files, ("Beauty", "Electronics"))


@contextmanager
def published_at(protocol: str, site: Path, folder: Path) -> Iterator[ModuleType]:
    """Copy a protocol to `folder`, and import its script; its publishers are a server on this machine."""
    script = f"{protocol}_protocol"
    for file in (PROTOCOLS / protocol).iterdir():
        if file.suffix in (".py", ".yaml", ".csv"):  # without the checksums of the published files
            shutil.copy(file, folder / file.name)
    spec = importlib.util.spec_from_file_location(script, folder / f"{script}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        module.__dict__["SOURCE"] = f"http://127.0.0.1:{server.server_address[1]}"
        yield module
        server.shutdown()


@pytest.fixture
def abxi(tmp_path: Path) -> Iterator[ModuleType]:
    """The script of ABXI's protocol in a folder of its own, with 20 users of 8 of 30 items."""
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
    with published_at("abxi", site.parent, tmp_path) as module:
        yield module


def test_a_set_of_abxi_is_fetched_checked_and_made_sequences_of(abxi: ModuleType, tmp_path: Path) -> None:
    abxi.PROTOCOL.fetch("beauty_electronics")
    abxi.PROTOCOL.data("beauty_electronics")
    sequences = read_sequences(tmp_path / "data/beauty_electronics/sequences")
    lines = (tmp_path / "site/abe/abe_50_preprocessed.txt").read_text().splitlines()
    for line in lines:  # each user's items in the published order, of which the last is the test target
        user, *steps = line.split()
        items, splits = timeline_of(sequences, f"A{user}")
        assert items == [f"B{step.partition('|')[0]}" for step in steps]
        assert splits == [0] * 6 + [1, 2]
    shutil.rmtree(tmp_path / "downloads")
    with (tmp_path / "site/abe/abe_50_preprocessed.txt").open("a") as file:
        file.write("19 1|1300000000\n")
    with pytest.raises(TapestryError, match=r"abe_50_preprocessed\.txt.*checksums\.json"):
        abxi.PROTOCOL.fetch("beauty_electronics")


def timeline_of(sequences: Sequences, user_id: str) -> tuple[list[str], list[int]]:
    """The item_ids and splits of a user's sequence."""
    number = sequences.user_id.tolist().index(user_id)
    own = slice(sequences.offsets[number], sequences.offsets[number + 1])
    return sequences.item_id[sequences.item[own]].tolist(), sequences.split[own].tolist()


@pytest.fixture
def sasrec(tmp_path: Path) -> Iterator[ModuleType]:
    """The script of SASRec's protocol in a folder of its own, with the users of `GAMES`."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/Video.txt").write_text("".join(f"{u} {i}\n" for u, items in GAMES.items() for i in items))
    with published_at("sasrec", tmp_path / "site", tmp_path) as module:
        yield module


GAMES = {u: np.random.default_rng(u).permutation(np.arange(1, 41))[: max(u, 1)].tolist() for u in range(1, 31)}
"""Items of 30 users in time order: user u has u of them, so that users 1 and 2 have too few for targets."""


def test_the_set_of_sasrec_has_the_published_order_and_two_targets_a_user(sasrec: ModuleType, tmp_path: Path) -> None:
    sasrec.PROTOCOL.fetch("games")
    rows = raw_rows(tmp_path / "raw/games/Games.csv")
    assert rows[0] == ["user_id", "item_id", "timestamp", "position", "split"]
    days: dict[str, list[tuple[float, int]]] = {}
    for user, _, seconds, position, _ in rows[1:]:
        days.setdefault(user, []).append((int(seconds) / 86_400, int(position)))
    assert all(day - position == 10_957 for of_user in days.values() for day, position in of_user)  # 2000-01-01
    sasrec.PROTOCOL.data("games")
    sequences = read_sequences(tmp_path / "data/games/sequences")
    assert len(sequences.user_id) == 30
    for number, wanted in GAMES.items():
        items, splits = timeline_of(sequences, str(number))
        assert items == [str(item) for item in wanted]
        assert splits == ([0] * number if number < 3 else [0] * (number - 2) + [1, 2])


def test_a_protocol_is_run_from_fetch_to_the_table_of_its_page(
    sasrec: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = tmp_path / "games.yaml"
    text = params.read_text()
    for old, new in (("epochs: 12 ", "epochs: 1 "), ("width: 64 ", "width: 8 "), ("threads: 2 ", "threads: 1 ")):
        assert old in text
        text = text.replace(old, new)
    params.write_text(text)
    for command in (["fetch", "games"], ["data", "games"], *(["train", "games", "recommended", s] for s in "12")):
        sasrec.PROTOCOL.run(command)
    sasrec.PROTOCOL.run(["results"])
    capsys.readouterr()
    sasrec.PROTOCOL.run(["show"])
    head, _, *lines = capsys.readouterr().out.strip().splitlines()
    assert head == "| `recommended` |  | SASRec | ours | change, % |"
    # All other items are negatives, so that the sampled figures are the full ones.
    for line, metric in zip(lines, ("hr_10", "ndcg_10"), strict=True):
        of_seeds = []
        for seed in "12":
            rank = pq.read_table(tmp_path / f"runs/games/recommended/{seed}/ranks.parquet")["rank"].to_pylist()
            of_seeds.append(sum((1 if metric == "hr_10" else 1 / math.log2(r + 1)) for r in rank if r <= 10) / 28)
        mean, gap = sum(of_seeds) / 2, abs(of_seeds[0] - of_seeds[1]) / math.sqrt(2)
        published = {"hr_10": 0.7410, "ndcg_10": 0.5360}[metric]
        label = {"hr_10": "HR@10", "ndcg_10": "NDCG@10"}[metric]
        change = f"{100 * (mean / published - 1):+.1f}"
        figures = f"| .{published * 10_000:.0f} | .{mean * 10_000:04.0f} ± .{gap * 10_000:04.0f} |"
        assert line.startswith(f"| Games | {label} {figures} {change} [")


@pytest.mark.parametrize("arguments", [[], ["make"]])
def test_another_command_is_an_error_that_names_them(
    sasrec: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        sasrec.PROTOCOL.run(arguments)
    message = ": error: a command is needed, one of fetch, data, train, results, show\n"
    assert capsys.readouterr().err.endswith(message)
