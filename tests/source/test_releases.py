"""Releases by name: their addresses, and a fetch of one from a publisher on this machine."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import tapestry.source.source
from tapestry.core.errors import TapestryError
from tapestry.ingest.ingest import ingest
from tapestry.parameters import Parameters
from tapestry.source.releases import RELEASES, Release
from tapestry.source.settings import SourceSettings
from tapestry.source.source import fetch, fingerprints

RATINGS = "B000HPV1UY,A1YJEY40YUXX,5.0,1378252800\n0132793040,AKM1MP6P0OYPR,4.0,1378252801\n"


@pytest.mark.parametrize(
    ("release", "category", "url"),
    [
        ("amazon-2014", "Books", "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/ratings_Books.csv"),
        (
            "amazon-2014-5core",
            "Beauty",
            "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/reviews_Beauty_5.json.gz",
        ),
        (
            "amazon-2018",
            "AMAZON_FASHION",
            "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/categoryFilesSmall/AMAZON_FASHION.csv",
        ),
        (
            "amazon-2018-5core",
            "Gift_Cards",
            "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/categoryFilesSmall/Gift_Cards_5.json.gz",
        ),
        (
            "amazon-2023",
            "Unknown",
            "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw/review_categories/Unknown.jsonl.gz",
        ),
        (
            "amazon-2023-5core",
            "Books",
            "https://huggingface.co/datasets/McAuley-Lab/Amazon-Reviews-2023/resolve/main/benchmark/5core/rating_only/"
            "Books.csv",
        ),
    ],
)
def test_a_category_has_the_publishers_address(release: str, category: str, url: str) -> None:
    assert RELEASES[release].url(category) == url


def test_releases_have_the_categories_that_are_published() -> None:
    assert {name: len(release.categories) for name, release in RELEASES.items()} == {
        "amazon-2014": 24,
        "amazon-2014-5core": 24,
        "amazon-2018": 29,
        "amazon-2018-5core": 29,
        "amazon-2023": 34,
        "amazon-2023-5core": 28,
    }
    assert all(len(set(release.categories)) == len(release.categories) for release in RELEASES.values())


def test_every_release_can_be_configured(parameters: Parameters) -> None:
    for name, release in RELEASES.items():
        source = SourceSettings(release=name, domains=release.categories[:2], path=None)  # type: ignore[arg-type]
        assert set(fingerprints(source, parameters.synthetic)) == set(release.categories[:2])


@pytest.mark.parametrize(
    ("category", "similar"), [("Amazon_Fashion", "AMAZON_FASHION"), ("book", "Books"), ("Groceries", "Grocery_and")]
)
def test_an_unknown_category_is_refused_with_similar_ones(category: str, similar: str) -> None:
    with pytest.raises(TapestryError, match=r"source\.domains: amazon-2018 has no category") as caught:
        RELEASES["amazon-2018"].url(category)
    assert similar in str(caught.value)


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[tuple[ThreadingHTTPServer, list[str]]]:
    """Serve the folder `published`; return the address and the list of requested paths."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            asked.append(self.path)

    (tmp_path / "published").mkdir()
    (tmp_path / "published/Books.csv").write_text(RATINGS)
    handler = functools.partial(Handler, directory=str(tmp_path / "published"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server, asked
        server.shutdown()


def test_a_release_is_fetched_once_recorded_and_read(
    publisher: tuple[ThreadingHTTPServer, list[str]],
    parameters: Parameters,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, asked = publisher
    address = f"http://127.0.0.1:{server.server_port}/{{}}.csv"
    local = {"amazon-2018": Release("amazon-2018", address, ("Books", "Toys_and_Games"))}
    monkeypatch.setattr(tapestry.source.source, "RELEASES", local)
    root = tmp_path / "checkout"
    root.mkdir()
    monkeypatch.setenv("DVC_ROOT", str(root))
    source = SourceSettings(release="amazon-2018", domains=("Books", "Toys_and_Games"), path=None)

    raw = fetch(source, parameters.synthetic, "Books", root / "data/raw/Books")
    assert raw.name == "Books.csv"
    assert raw.read_text() == RATINGS
    assert [path.name for path in raw.parent.iterdir()] == ["Books.csv"]
    assert list(json.loads((root / "checksums.json").read_text())) == [address.format("Books")]

    settings = dataclasses.replace(parameters.ingest)
    out = tmp_path / "out"
    ingest(raw, "Books", settings, out / "i.parquet", out / "q.parquet", out / "c.json")
    rows = pq.read_table(out / "i.parquet").to_pylist()
    assert [(row["user_id"], row["item_id"], row["rating"]) for row in rows] == [
        ("A1YJEY40YUXX", "B000HPV1UY", 5.0),
        ("AKM1MP6P0OYPR", "0132793040", 4.0),
    ]

    fetch(source, parameters.synthetic, "Books", root / "data/raw/Books")
    assert asked == ["/Books.csv"]
    os.remove(root / "downloads/amazon-2018/Books.csv")
    (tmp_path / "published/Books.csv").write_text(RATINGS.replace("4.0", "3.0"))
    with pytest.raises(TapestryError, match=r"checksums\.json"):
        fetch(source, parameters.synthetic, "Books", root / "data/raw/Books")
    assert raw.read_text() == RATINGS
    with pytest.raises(TapestryError, match="404"):
        fetch(source, parameters.synthetic, "Toys_and_Games", root / "data/raw/Toys_and_Games")
    assert not (root / "data/raw/Toys_and_Games").exists()
