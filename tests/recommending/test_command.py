"""`tapestry recommend`, called through its command line."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from small import WHOLE_MODEL, random_sequences, sequences_of, write_checkout
from typer.testing import CliRunner, Result

from tapestry.cli import app
from tapestry.model.network import Recommender
from tapestry.model.request_time import LATEST
from tapestry.model.storage import load_model, save_model
from tapestry.recommending.catalogue import Catalogue
from tapestry.recommending.top import Request, top_items
from tapestry.sequences.reader import Sequences


@pytest.fixture(scope="module")
def sequences() -> Sequences:
    return random_sequences(4)


@pytest.fixture(scope="module")
def checkout(sequences: Sequences, params_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    write_checkout(sequences, folder, params_yaml)
    return folder


@pytest.fixture(autouse=True)
def in_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in the checkout, and don't change torch's global settings."""
    monkeypatch.chdir(checkout)
    monkeypatch.setattr("tapestry.recommending.command.make_deterministic", lambda seed, threads: None)


def recommend(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["recommend", *arguments], input=stdin)


def rows(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def direct(
    sequences: Sequences,
    checkout: Path,
    user: int,
    domain: int,
    k: int,
    exclude_seen: bool = True,
    time: int = LATEST,
) -> list[str]:
    model, _ = load_model(checkout / "models")
    history = sequences.item[sequences.user == user].astype(np.int64)
    catalogue = Catalogue(sequences.item_id, sequences.domains, sequences.known_counts)
    ((_, top),) = top_items(model, catalogue, [Request("", history, 0, domain, time)], k, exclude_seen, 1)
    return [str(item) for item in sequences.item_id[top.item]]


def test_a_user_gets_the_domains_named_from_the_whole_history(sequences: Sequences, checkout: Path) -> None:
    found = rows(recommend("--user", "u3", "--user", "u1", "--domain", "D2", "--domain", "D0", "-k", "4", "--json"))
    assert [(row["user_id"], row["domain"]) for row in found] == [
        ("u3", "D2"),
        ("u3", "D0"),
        ("u1", "D2"),
        ("u1", "D0"),
    ]
    for row in found:
        user, domain = int(row["user_id"][1:]), int(row["domain"][1:])
        assert row["items"] == direct(sequences, checkout, user, domain, 4)
        assert len(row["scores"]) == 4
        seen = set(sequences.item_id[sequences.item[sequences.user == user]])
        assert not seen & set(row["items"])


def test_without_a_named_domain_all_domains_are_recommended(sequences: Sequences) -> None:
    assert [row["domain"] for row in rows(recommend("--user", "u3", "--json"))] == ["D0", "D1", "D2"]


@pytest.mark.parametrize("who", [["--user", "u3"], ["--history", "-"]])
def test_a_date_is_the_time_of_the_request(sequences: Sequences, checkout: Path, who: list[str]) -> None:
    items = "\n".join(sequences.item_id[sequences.item[sequences.user == 3]])
    dated, undated = (
        rows(recommend(*who, *date, "--domain", "D1", "--json", stdin=items))[0]["items"]
        for date in (["--date", "1970-04-01"], [])
    )
    assert dated == direct(sequences, checkout, 3, 1, 10, time=90 * 86_400_000)
    assert undated == direct(sequences, checkout, 3, 1, 10)
    assert dated != undated


def test_a_date_for_a_model_without_request_time_is_an_error(
    sequences: Sequences, tmp_path: Path, params_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkout(sequences, tmp_path, params_yaml)
    settings = dataclasses.replace(WHOLE_MODEL, request_time=False, recent_weight=0.0, neighbour_weight=0.0)
    save_model(
        tmp_path / "models", Recommender(settings, sequences.items, len(sequences.domains)), sequences.domains, {}
    )
    monkeypatch.chdir(tmp_path)
    assert "--date: this model doesn't know the time" in recommend("--user", "u3", "--date", "1970-04-01").stderr


def test_seen_items_come_where_they_are_to_be_kept(sequences: Sequences, checkout: Path) -> None:
    (row,) = rows(recommend("--user", "u3", "--domain", "D1", "-k", "99", "--keep-seen", "--json"))
    assert row["items"] == direct(sequences, checkout, 3, 1, 99, exclude_seen=False)
    assert len(row["items"]) == 10


def test_a_users_history_in_a_file_gives_what_the_user_gets(
    sequences: Sequences, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = sequences.item_id[sequences.item[sequences.user == 3]].tolist()
    (expected,) = rows(recommend("--user", "u3", "--domain", "D1", "--json"))
    (tmp_path / "plain.txt").write_text("\n".join(items))
    (tmp_path / "lines.jsonl").write_text(json.dumps({"user_id": "u3", "history": items}) + "\n")
    (lines,) = rows(recommend("--history", str(tmp_path / "lines.jsonl"), "--domain", "D1", "--json"))
    (plain,) = rows(recommend("--history", str(tmp_path / "plain.txt"), "--domain", "D1", "--json"))
    (piped,) = rows(recommend("--history", "-", "--domain", "D1", "--json", stdin="\n".join(items)))
    assert lines == expected
    assert plain == piped == expected | {"user_id": "line 1"}


def test_it_runs_in_a_subdirectory_and_paths_are_relative_to_it(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkout / "notebooks/deep"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("i1\ni2\n")
    monkeypatch.chdir(folder)
    assert recommend("--history", "mine.txt", "--out", "mine.parquet").exit_code == 0
    assert pq.read_table(folder / "mine.parquet")["user_id"].unique().to_pylist() == ["line 1"]
    assert sorted(path.name for path in folder.iterdir()) == ["mine.parquet", "mine.txt"]


def test_everybody_is_written_to_parquet_with_the_same_bytes_twice(
    sequences: Sequences, checkout: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        result = recommend("--everybody", "--out", str(tmp_path / f"{name}.parquet"), "-k", "3")
        assert result.exit_code == 0, result.output
    table = pq.read_table(tmp_path / "a.parquet")
    assert result.stdout == f"{tmp_path / 'b.parquet'}: {len(table)} rows\n"
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    printed = rows(recommend("--everybody", "--json", "-k", "3"))
    expected = [
        {"user_id": row["user_id"], "domain": row["domain"], "rank": rank, "item_id": item, "score": score}
        for row in printed
        for rank, (item, score) in enumerate(zip(row["items"], row["scores"], strict=True), start=1)
    ]
    assert table.to_pylist() == expected
    assert list(dict.fromkeys(table["user_id"].to_pylist())) == sequences.user_id.tolist()


def test_without_json_a_table_is_printed(sequences: Sequences, checkout: Path) -> None:
    (first, second) = direct(sequences, checkout, 3, 0, 2)
    result = recommend("--user", "u3", "--domain", "D0", "-k", "2")
    length = int((sequences.user == 3).sum())
    shape = rf"u3 \({length} items\)\n  D0\n +1  {first} +-?0\.\d{{4}}\n +2  {second} +-?0\.\d{{4}}\n"
    assert re.fullmatch(shape, result.stdout)


def test_unknown_items_are_skipped_and_counted() -> None:
    lines = '["i1", "nope"]\n["nope"]\n{"user_id": "v", "history": ["i2"]}\n'
    result = recommend("--history", "-", "--domain", "D0", "-k", "1", stdin=lines)
    assert result.exit_code == 0
    assert "line 1 (1 items, 1 unknown skipped)\n" in result.stdout
    assert "line 2 (0 items, 1 unknown skipped)\n  D0\n        nothing: no item is known\n" in result.stdout
    assert result.stderr.splitlines() == [
        "unknown items skipped: 2, in 2 of 3 histories",
        "nothing recommended for 1, because none of their items is known: line 2",
    ]


@pytest.mark.parametrize(
    ("arguments", "given", "message"),
    [
        ([], None, "give one of --user ID, --history FILE and --everybody"),
        (["--user", "u1", "--everybody"], None, "give one of --user ID"),
        (["--everybody"], None, "--everybody needs --out FILE.parquet or --json"),
        (["--everybody", "--out", "x.csv"], None, "--out writes Parquet: "),
        (["--everybody", "--out", "x.parquet", "--json"], None, "give only one of them"),
        (["--user", "u1", "--user", "nobody"], None, "user 'nobody' is not among the 12 users of data/sequences"),
        (["--user", "u1", "--domain", "D9"], None, "unknown domain 'D9': the model knows D0, D1, D2"),
        (["--history", "-", "--domain", "D9"], '["i1"]', "unknown domain 'D9': the model knows D0, D1, D2"),
        (["--history", "nowhere.txt"], None, "nowhere.txt: no such file"),
        (["--history", "data"], None, "data: a folder"),
        (["--history", "-"], "", "standard input: no history in it"),
        (["--history", "-"], "x\ny", "no item of the history is known to the model"),
        (["--history", "-"], '["x"]\n["y"]', "no item of the 2 histories is known to the model"),
    ],
)
def test_an_error_is_one_line(arguments: list[str], given: str | None, message: str, checkout: Path) -> None:
    result = recommend(*arguments, stdin=given)
    assert result.exit_code == 1
    assert re.fullmatch(r"recommend: error: .*\n", result.stderr)
    assert message in result.stderr
    assert result.stdout == ""
    assert not list(checkout.glob("x.*"))


def test_an_id_of_several_domains_names_the_history(
    tmp_path: Path, params_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences = sequences_of([[0, 1, 2, 3], [1, 2, 3, 0]], [0, 0, 1, 1])
    sequences.item_id[:] = ["1", "2", "1", "3"]
    write_checkout(sequences, tmp_path, params_yaml)
    monkeypatch.chdir(tmp_path)
    result = recommend("--history", "-", stdin='["2"]\n["1"]')
    assert "error: line 2: item '1' names an item in each of the domains D0, D1: give its domain" in result.stderr
    found = rows(recommend("--history", "-", "--json", stdin='[{"item_id": "1", "domain": "D1"}]'))
    assert [row["items"] for row in found if row["domain"] == "D1"] == [["3"]]


def test_outside_a_checkout_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"{tmp_path} is in no checkout of Tapestry" in recommend("--user", "u1").stderr


def test_a_model_trained_on_other_data_is_refused(
    checkout: Path, tmp_path: Path, params_yaml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkout(random_sequences(1, items=33), tmp_path, params_yaml)
    shutil.rmtree(tmp_path / "models")
    shutil.copytree(checkout / "models", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    assert "models: a model of other data: domain 1 is D0 with 10 items" in recommend("--user", "u1").stderr
    assert "33 items in 3 domains, but the model was trained on 30" in recommend("--history", "-", stdin="i1").stderr
