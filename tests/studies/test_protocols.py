"""The folders of benchmarks/protocols: their files, their readers, and their commands from download to table."""

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
import pyarrow.parquet as pq
import pytest
from checkouts import ROOT
from tiny_checkout import read_yaml

from tapestry.core.errors import TapestryError
from tapestry.model.settings import ModelSettings
from tapestry.parameters import load_parameters
from tapestry.sequences.reader import Sequences, read_sequences
from tapestry.studies.protocol import write_raw_files
from tapestry.studies.published import read_published
from tapestry.studies.results import read_csv
from tapestry.studies.trials import changed_section
from tapestry.training.settings import TrainSettings

PROTOCOLS = ROOT / "benchmarks/protocols"
ABXI = PROTOCOLS / "abxi"
SETS_OF = {
    "abxi": ("beauty_electronics", "food_kitchen"),
    "s3rec": ("beauty", "sports", "toys"),
    "sasrec": ("games",),
}
SETS = [(protocol, data) for protocol, names in SETS_OF.items() for data in names]


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
    sampled = (f"{metric}_of_{parameters.evaluate.sampled_negatives}" for metric in metrics)
    assert {figure.metric for figure in published} <= {*metrics, *sampled}
    methods = {row["method"] for row in read_csv(folder / "published.csv")}  # each has each figure, once
    figures = {(figure.domain, figure.metric) for figure in published}
    assert len(published) == len({(*f, m) for f in figures for m in methods})
    assert {(f.domain, f.metric, f.method) for f in published} == {(*f, m) for f in figures for m in methods}
    assert parameters.source.path == f"benchmarks/protocols/{protocol}/raw/{data}"
    stages = read_yaml(folder / "dvc.yaml")["stages"]
    assert data in stages["train"]["matrix"]["data"]
    recipes = read_yaml(folder / "recipes.yaml")
    assert set(recipes) == set(stages["train"]["matrix"]["recipe"])
    for recipe in recipes.values():
        changed_section(TrainSettings, "train", recipe["train"], folder / f"{data}.yaml")
        changed_section(ModelSettings, "model", recipe["model"], folder / f"{data}.yaml")


@pytest.mark.parametrize(("protocol", "names"), SETS_OF.items())
def test_the_sets_of_a_protocol_differ_in_their_source_and_abxis_in_their_recipe_alone(
    protocol: str, names: tuple[str, ...]
) -> None:
    own = ("source", "model", "train") if protocol == "abxi" else ("source",)
    first, *others = (read_yaml(PROTOCOLS / protocol / f"{data}.yaml") for data in names)
    sections = {section: first.pop(section) for section in own}
    for other in others:
        for section in own:
            assert other.pop(section) != sections[section]
        assert other == first


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
    assert head == "| `recommended` |  | SASRec | ours | change from SASRec, % |"
    # All other items are negatives, so that the sampled figures are the full ones.
    for line, metric in zip(lines, ("hr_10", "ndcg_10"), strict=True):
        of_seeds = []
        for seed in "12":
            rank = pq.read_table(tmp_path / f"runs/games/recommended/{seed}/ranks.parquet")["rank"].to_pylist()
            of_seeds.append(sum((1 if metric == "hr_10" else 1 / math.log2(r + 1)) for r in rank if r <= 10) / 28)
        mean, gap = sum(of_seeds) / 2, abs(of_seeds[0] - of_seeds[1]) / math.sqrt(2)
        published = {"hr_10": 0.7410, "ndcg_10": 0.5360}[metric]
        label = {"hr_10": "HR@10, 100 negatives", "ndcg_10": "NDCG@10, 100 negatives"}[metric]
        change = f"{100 * (mean / published - 1):+.1f}"
        figures = f"| .{published * 10_000:.0f} | .{mean * 10_000:04.0f} ± .{gap * 10_000:04.0f} |"
        assert line.startswith(f"| Games | {label} {figures} {change} [")


@pytest.fixture
def s3rec(tmp_path: Path) -> Iterator[ModuleType]:
    """The script of S3-Rec's protocol in a folder of its own, with three users of toys."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/Toys_and_Games.txt").write_text("1 4 2 9 1 3\n2 3 4 1 2 9 7\n10 9 3 2 1 4\n")
    with published_at("s3rec", tmp_path / "site", tmp_path) as module:
        yield module


def test_a_set_of_s3rec_has_a_line_a_user_in_the_published_order(s3rec: ModuleType, tmp_path: Path) -> None:
    s3rec.PROTOCOL.fetch("toys")
    rows = raw_rows(tmp_path / "raw/toys/Toys_and_Games.csv")
    assert rows[0] == ["user_id", "item_id", "timestamp", "position", "split"]
    assert [row for row in rows if row[0] == "10"] == [
        ["10", "9", "946684800", "0", "train"],
        ["10", "3", "946771200", "1", "train"],
        ["10", "2", "946857600", "2", "train"],
        ["10", "1", "946944000", "3", "validation"],
        ["10", "4", "947030400", "4", "test"],
    ]
    s3rec.PROTOCOL.data("toys")
    sequences = read_sequences(tmp_path / "data/toys/sequences")
    assert timeline_of(sequences, "1") == (["4", "2", "9", "1", "3"], [0, 0, 0, 1, 2])
    assert timeline_of(sequences, "2") == (["3", "4", "1", "2", "9", "7"], [0, 0, 0, 0, 1, 2])
    assert timeline_of(sequences, "10") == (["9", "3", "2", "1", "4"], [0, 0, 0, 1, 2])


def test_a_table_has_a_column_for_each_method(
    s3rec: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = "data,recipe,domain,method,metric,targets,published,published_sd,seeds,ours,ours_sd,change,low,high"
    (tmp_path / "results.csv").write_text(
        f"{head}\n"
        "toys,wide,Toys,A,hr_5,9,0.4,,2,0.5,0.01,0.25,0.1,0.3\n"
        "toys,wide,Toys,A,mrr_of_99,9,0.1,,2,0.2,0.02,1.0,0.9,1.1\n"
        "toys,wide,Toys,B,hr_5,9,0.8,0.03,2,0.5,0.01,-0.375,-0.4,-0.2\n"
        "toys,wide,Toys,B,mrr_of_99,9,0.2,,2,0.2,0.02,0.0,-0.1,0.1\n"
    )
    s3rec.PROTOCOL.run(["show"])
    assert capsys.readouterr().out.strip().splitlines() == [
        "| `wide` |  | A | B | ours | change from A, % | change from B, % |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| Toys | HR@5 | .4000 | .8000 ± .0300 | .5000 ± .0100 | +25.0 [+10.0, +30.0] | -37.5 [-40.0, -20.0] |",
        "| Toys | MRR, 99 negatives | .1000 | .2000 | .2000 ± .0200 | +100.0 [+90.0, +110.0] | +0.0 [-10.0, +10.0] |",
    ]


@pytest.mark.parametrize("arguments", [[], ["make"]])
def test_another_command_is_an_error_that_names_them(
    sasrec: ModuleType, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        sasrec.PROTOCOL.run(arguments)
    message = ": error: a command is needed, one of fetch, data, train, results, show\n"
    assert capsys.readouterr().err.endswith(message)
