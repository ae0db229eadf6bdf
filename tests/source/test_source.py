from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import shutil
import unicodedata
from pathlib import Path
from typing import Literal

import pytest

from tapestry.core.checkout import checkout_root
from tapestry.core.errors import TapestryError
from tapestry.source.settings import SourceSettings, SyntheticSettings
from tapestry.source.source import fetch, find_raw_file, fingerprints

SYNTHETIC = SyntheticSettings(
    users=10,
    items=12,
    mean_length=8.0,
    domain_skew=0.0,
    transition_strength=0.6,
    popularity_exponent=0.8,
    interests=4,
    within_domain_effect=0.35,
    cross_domain_effect=0.25,
    tie_probability=0.25,
    seed=7,
)
SIMULATED = SourceSettings(release="synthetic", domains=("Books", "Toys"), path=None)
FORMS = (
    "Books.json",
    "Books.jsonl",
    "Books.csv",
    "Books.parquet",
    "Books.ndjson",
    "Books.tsv",
    "Books.inter",
    "Books.inter.gz",
    "Books.CSV",
    "Books.json.gz",
    "Books.jsonl.gz",
    "Books.csv.gz",
    "Books_5.json.gz",
    "reviews_Books.json.gz",
    "reviews_Books_5.json.gz",
    "ratings_Books.csv",
    "ratings_Books_5.parquet",
)


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty checkout as the current directory, outside DVC."""
    root = tmp_path / "checkout"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return root


@pytest.fixture
def raw(checkout: Path) -> Path:
    folder = checkout / "raw"
    folder.mkdir()
    return folder


def own_files(path: str = "raw") -> SourceSettings:
    return SourceSettings(release="files", domains=("Books", "Toys"), path=path)


def test_the_checkout_root_is_the_current_directory_or_what_dvc_says(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checkout_root() == checkout.resolve()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert checkout_root() == tmp_path.resolve()


@pytest.mark.parametrize("name", FORMS)
def test_every_accepted_name_is_found(raw: Path, name: str) -> None:
    (raw / name).write_text("x")
    for other in ("Toys.json.gz", "Books.txt", "Books.json.bak", "README.md"):
        (raw / other).write_text("y")
    assert find_raw_file(Path("raw"), "Books") == (raw / name).resolve()


@pytest.mark.parametrize(
    "name",
    [
        "books.json",
        "Books.parquet.gz",
        "Books.json.zip",
        "meta_Books.json.gz",
        "Books_10.json",
        "BooksXjson",
        "All_Books.json",
        ".Books.json",
    ],
)
def test_other_names_are_not_accepted(raw: Path, name: str) -> None:
    (raw / name).write_text("x")
    with pytest.raises(TapestryError, match="no raw file of Books") as caught:
        find_raw_file(Path("raw"), "Books")
    assert name in str(caught.value)
    assert "Books.parquet" in str(caught.value)


def test_relative_folders_start_at_the_original_checkout(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (raw / "Books.csv").write_text("x")
    copy = tmp_path / "temporary-copy"
    copy.mkdir()
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(raw.parent))
    assert find_raw_file(Path("raw"), "Books") == (raw / "Books.csv").resolve()
    assert find_raw_file(raw, "Books") == raw / "Books.csv"


def test_a_missing_folder_is_named_as_given_and_as_absolute_path(checkout: Path) -> None:
    with pytest.raises(TapestryError, match="checkout's root") as caught:
        find_raw_file(Path("nowhere"), "Books")
    assert "folder nowhere" in str(caught.value)
    assert str(checkout.resolve() / "nowhere") in str(caught.value)


def test_a_file_instead_of_the_folder_is_refused(raw: Path) -> None:
    (raw / "Books.csv").write_text("x")
    with pytest.raises(TapestryError, match=r"raw/Books\.csv is a file"):
        find_raw_file(Path("raw/Books.csv"), "Books")


def test_a_folder_without_the_file_lists_ten_names(raw: Path) -> None:
    with pytest.raises(TapestryError, match="holds no files"):
        find_raw_file(Path("raw"), "Books")
    for number in range(12):
        (raw / f"part-{number:02}.csv").write_text("x")
    with pytest.raises(TapestryError, match=r"part-00\.csv, .*part-09\.csv and 2 more$"):
        find_raw_file(Path("raw"), "Books")


def test_two_files_of_a_domain_are_named(raw: Path) -> None:
    (raw / "Books.csv").write_text("x")
    (raw / "reviews_Books_5.json.gz").write_text("x")
    with pytest.raises(TapestryError, match=r"Books\.csv, reviews_Books_5\.json\.gz\. Leave one"):
        find_raw_file(Path("raw"), "Books")


def test_an_empty_file_is_refused(raw: Path) -> None:
    (raw / "Books.csv").touch()
    with pytest.raises(TapestryError, match=r"Books\.csv is empty"):
        find_raw_file(Path("raw"), "Books")


def test_files_are_described_by_name_and_content_but_not_by_folder(raw: Path, tmp_path: Path) -> None:
    (raw / "Books.csv").write_text("books")
    (raw / "Toys_5.json").write_text("toys!!")
    expected = {
        "Books": {"file": "Books.csv", "bytes": 5, "sha256": hashlib.sha256(b"books").hexdigest()},
        "Toys": {"file": "Toys_5.json", "bytes": 6, "sha256": hashlib.sha256(b"toys!!").hexdigest()},
    }
    moved = shutil.copytree(raw, tmp_path / "elsewhere")
    assert fingerprints(own_files(), SYNTHETIC) == fingerprints(own_files(str(moved)), SYNTHETIC) == expected


def test_simulated_domains_are_described_by_all_settings_of_the_simulator() -> None:
    described = fingerprints(SIMULATED, SYNTHETIC)
    assert described["Books"] | {"domain": 1} == described["Toys"]
    assert described != fingerprints(SIMULATED, dataclasses.replace(SYNTHETIC, seed=8))
    three = dataclasses.replace(SIMULATED, domains=("Books", "Toys", "Music"))
    assert described["Books"] != fingerprints(three, SYNTHETIC)["Books"]


def test_fetching_a_users_file_replaces_the_content_of_the_folder(raw: Path, tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (raw / "reviews_Books_5.json.gz").write_bytes(content)
    folder = tmp_path / "out" / "Books"
    folder.mkdir(parents=True)
    (folder / "stale.csv").write_text("x")
    fetched = fetch(own_files(), SYNTHETIC, "Books", folder)
    assert fetched == folder / "reviews_Books_5.json.gz"
    assert fetched.read_bytes() == content
    assert list(folder.parent.rglob("*")) == [folder, fetched]


def test_fetching_a_simulated_domain_writes_its_reviews(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "Toys"
    fetched = fetch(SIMULATED, SYNTHETIC, "Toys", folder)
    assert fetched == folder / "Toys.json.gz"
    assert list(folder.parent.rglob("*")) == [folder, fetched]
    lines = gzip.decompress(fetched.read_bytes()).splitlines()
    assert all(json.loads(line)["asin"].startswith("S01") for line in lines)


def test_an_unknown_domain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TapestryError, match=r"Beauty is not one of source\.domains: Books, Toys"):
        fetch(SIMULATED, SYNTHETIC, "Beauty", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, b""], ids=["missing", "empty"])
def test_a_refused_file_leaves_nothing_behind(raw: Path, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (raw / "Books.csv").write_bytes(content)
    with pytest.raises(TapestryError):
        fetch(own_files(), SYNTHETIC, "Books", tmp_path / "out" / "Books")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("release", ["files", "synthetic"])
def test_a_write_that_fails_leaves_nothing_behind(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    (raw / "Books.csv").write_text("x")
    monkeypatch.setattr("shutil.copyfileobj", fail)
    monkeypatch.setattr("tapestry.source.synthetic._review", fail)
    with pytest.raises(OSError, match="no space"):
        fetch(own_files() if release == "files" else SIMULATED, SYNTHETIC, "Books", tmp_path / "out" / "Books")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
def test_composed_and_decomposed_names_are_equal(
    raw: Path, written: Literal["NFC", "NFD"], asked: Literal["NFC", "NFD"]
) -> None:
    (raw / unicodedata.normalize(written, "Café.csv")).write_text("x")
    (raw / "Toys.csv").write_text("y")
    domain = unicodedata.normalize(asked, "Café")
    source = SourceSettings(release="files", domains=(domain, "Toys"), path="raw")
    fingerprint = fingerprints(source, SYNTHETIC)[domain]
    assert fingerprint["file"] == unicodedata.normalize("NFC", "Café.csv")
    assert fetch(source, SYNTHETIC, domain, Path("data/raw") / domain).read_text() == "x"


def test_a_folder_of_parts_is_refused(raw: Path) -> None:
    (raw / "Books.parquet").mkdir()
    with pytest.raises(TapestryError, match=r"Books\.parquet is a folder, as Spark writes files in parts"):
        find_raw_file(Path("raw"), "Books")
