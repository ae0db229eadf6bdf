"""Column names by release, files without a header, and lines of Python literals."""

from __future__ import annotations

import dataclasses
import gzip
import json
import random
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tapestry.core.errors import TapestryError
from tapestry.ingest.ingest import ingest
from tapestry.ingest.layouts import LAYOUTS, Layout, columns_without_header, layout_of
from tapestry.ingest.settings import IngestSettings

NOON = 1_378_252_800
# All forms of Amazon's ids: short and long user ids; item ids of books (digits) and of other products.
RATINGS = [
    ("AKM1MP6P0OYPR", "0132793040", 5.0, NOON),
    ("A2CX7LUOHB2NDG", "B00004T1WX", 4.0, NOON + 86_400),
    ("A00472881KT6WR48K907X", "043935806X", 1.0, NOON),
    ("A1YJEY40YU", "B000HPV1UY", 2.0, NOON + 2 * 86_400),
]


def read(path: Path, settings: IngestSettings) -> list[tuple[str, str, float, int]]:
    """Ingest a file; return its interactions as (user, item, rating, seconds), in their order."""
    out = path.parent / "out"
    ingest(path, "Books", settings, out / "i.parquet", out / "q.parquet", out / "c.json")
    rows = pq.read_table(out / "i.parquet").to_pylist()
    return [(row["user_id"], row["item_id"], row["rating"], row["timestamp"] // 1000) for row in rows]


def ratings_only(user_first: bool) -> bytes:
    """A file as the publisher has it: of 2014 (user first) or of 2018 (item first)."""
    rows = [(user, item) if user_first else (item, user) for user, item, _, _ in RATINGS]
    return "".join(
        f"{first},{second},{rating},{time}\n"
        for (first, second), (_, _, rating, time) in zip(rows, RATINGS, strict=True)
    ).encode()


@pytest.mark.parametrize("user_first", [True, False], ids=["2014", "2018"])
@pytest.mark.parametrize("name", ["ratings_Books.csv", "Books.csv.gz"])
def test_ratings_without_a_header_are_read_in_either_order(
    ingest_settings: IngestSettings, tmp_path: Path, user_first: bool, name: str
) -> None:
    content = ratings_only(user_first)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    assert read(path, ingest_settings) == sorted(RATINGS)


def test_the_first_row_of_a_file_without_a_header_is_row_1(ingest_settings: IngestSettings, tmp_path: Path) -> None:
    path = tmp_path / "Books.csv"
    bad = b"A2CX7LUOHB2NDG,,3.0,1378252800\nA2CX7LUOHB2NDG,B000HPV1UY\n"
    path.write_bytes(ratings_only(user_first=True) + bad + b"AKM1MP6P0OYPR,B000HPV1UY,1.0,1378252800\n")
    read(path, dataclasses.replace(ingest_settings, max_quarantine_share=0.5))
    quarantine = pq.read_table(tmp_path / "out/q.parquet").to_pylist()
    assert [(row["row"], row["reason"]) for row in quarantine] == [(5, "missing item"), (6, "wrong number of fields")]
    rows = pq.read_table(tmp_path / "out/i.parquet").to_pylist()
    assert sorted(row["row"] for row in rows) == [1, 2, 3, 4, 7]


def test_a_few_unusual_ids_do_not_change_the_order_found() -> None:
    rows = [[user, item, str(rating), str(time)] for user, item, rating, time in RATINGS] * 10
    odd = ["A300UEGL26", "A300UEGL27", "3.0", str(NOON)]
    assert columns_without_header([*rows, odd]) == ("reviewerID", "asin", "overall", "unixReviewTime")
    assert columns_without_header([[item, user, *more] for user, item, *more in [*rows, odd]]) == (
        "asin",
        "reviewerID",
        "overall",
        "unixReviewTime",
    )


@pytest.mark.parametrize(
    "row",
    ["someone,something,5.0,1378252800", "B000HPV1UY,B000HPV1UY,5.0,1378252800", "A1YJEY40YU,B000HPV1UY,5.0,09 4 2013"],
)
def test_a_file_without_header_and_known_ids_is_refused(
    ingest_settings: IngestSettings, tmp_path: Path, row: str
) -> None:
    path = tmp_path / "Books.csv"
    path.write_text(f"{row}\n" * 20)
    with pytest.raises(TapestryError, match="no known set of columns") as caught:
        read(path, ingest_settings)
    assert str(path) in str(caught.value)
    assert "without a header" in str(caught.value)


def python_literal(user: str, item: str, rating: float, time: int) -> bytes:
    review = {"reviewerID": user, "asin": item, "helpful": [0, 1], "reviewText": 'It\'s "so" so', "overall": rating}
    return repr(review | {"unixReviewTime": time, "verified": True, "style": None}).encode()


def test_python_literals_among_json_lines_are_read(ingest_settings: IngestSettings, tmp_path: Path) -> None:
    path = tmp_path / "Books.json.gz"
    (first, *more) = RATINGS
    as_json = json.dumps({"reviewerID": first[0], "asin": first[1], "overall": first[2], "unixReviewTime": first[3]})
    literals = [python_literal(*row) for row in more]
    assert all(line.startswith(b"{'") for line in literals)
    path.write_bytes(gzip.compress(b"\n".join([as_json.encode(), *literals])))
    assert read(path, ingest_settings) == sorted(RATINGS)


def test_python_code_is_quarantined_and_not_run(ingest_settings: IngestSettings, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    bad = [
        b"{'reviewerID': __import__('pathlib').Path(%r).touch()}" % str(trap),
        b"{'reviewerID': 'A1', 'asin': b'B1', 'unixReviewTime': 1378252800}",
        b"{'reviewerID': 'A1', 'asin'",
        b"{'" + b"[" * 100_000,
    ]
    path = tmp_path / "Books.json"
    path.write_bytes(b"\n".join([*(python_literal(*row) for row in RATINGS), *bad]))
    assert read(path, dataclasses.replace(ingest_settings, max_quarantine_share=0.9)) == sorted(RATINGS)
    quarantine = pq.read_table(tmp_path / "out/q.parquet").to_pylist()
    assert [row["row"] for row in quarantine] == [5, 6, 7, 8]
    assert {row["reason"] for row in quarantine} == {"not a JSON object"}
    assert [row["text"] for row in quarantine] == [line.decode()[:500] for line in bad]
    assert not trap.exists()


def test_the_order_of_columns_is_found_in_shuffled_rows() -> None:
    generator = random.Random(0)
    rows = [[user, item, str(rating), str(time)] for user, item, rating, time in RATINGS] * 50
    generator.shuffle(rows)
    assert columns_without_header(rows) == ("reviewerID", "asin", "overall", "unixReviewTime")
    assert columns_without_header([]) is None


IDS = [f"A{row:010d},B{row % 9:09d}" for row in range(60)]


@pytest.mark.parametrize(
    ("header", "rating", "time"),
    [
        ("user_id,item_id,rating,timestamp", 2, 3),
        ("user_id,item_id,helpful,timestamp", None, 3),
        ("user_id,item_id,timestamp,rating", 3, 2),
        ("reviewerID,asin,overall,unixReviewTime", 2, 3),
    ],
)
def test_a_header_over_amazons_ids_is_read_in_any_order(
    ingest_settings: IngestSettings, tmp_path: Path, header: str, rating: int | None, time: int
) -> None:
    path = tmp_path / "Books.csv"
    fields = {2: "4.0", 3: "4.0"} | {time: str(NOON)}
    path.write_text(f"{header}\n" + "".join(f"{ids},{fields[2]},{fields[3]}\n" for ids in IDS))
    rows = read(path, ingest_settings)
    assert [row[:2] for row in rows] == sorted(tuple(ids.split(",")) for ids in IDS)
    assert {(row[2], row[3]) for row in rows} == {(4.0 if rating else None, NOON)}
    assert pq.read_table(tmp_path / "out/q.parquet").num_rows == 0


def test_an_unknown_header_over_amazons_ids_is_not_read_as_a_row(
    ingest_settings: IngestSettings, tmp_path: Path
) -> None:
    path = tmp_path / "Books.csv"
    path.write_text("reviewer,product,helpful,when\n" + "".join(f"{ids},4.0,{NOON}\n" for ids in IDS))
    with pytest.raises(TapestryError, match=r"Found: reviewer, product, helpful, when. Accepted"):
        read(path, ingest_settings)


@pytest.mark.parametrize("delimiter", ["\t", ";", "|"])
def test_ratings_without_a_header_may_have_another_delimiter(
    ingest_settings: IngestSettings, tmp_path: Path, delimiter: str
) -> None:
    path = tmp_path / "Books.csv"
    path.write_bytes(ratings_only(user_first=False).replace(b",", delimiter.encode()))
    assert read(path, ingest_settings) == sorted(RATINGS)


def test_recboles_atomic_files_are_read(ingest_settings: IngestSettings, tmp_path: Path) -> None:
    path = tmp_path / "Books.inter"
    rows = "".join(f"{user}\t{item}\t{rating}\t{time}.0\n" for user, item, rating, time in RATINGS)
    path.write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + rows)
    assert read(path, ingest_settings) == sorted(RATINGS)


CASES = {
    "amazon-2014 and amazon-2018": ({"reviewerID": "A1", "asin": "B1", "unixReviewTime": NOON, "overall": 4.0}, 1000),
    "amazon-2023": ({"user_id": "A1", "parent_asin": "B1", "timestamp": NOON * 1000, "rating": 4.0}, 1),
    "plain": ({"user_id": "A1", "item_id": "B1", "timestamp": NOON, "rating": 4.0}, 1000),
}
"""{name of the layout: (a review with its column names, milliseconds in its unit of time)}"""


def write_review(folder: Path, review: Mapping[str, object], name: str) -> Path:
    path = folder / name
    match path.suffix:
        case ".json":
            path.write_text(json.dumps(review) + "\n")
        case ".csv":
            path.write_text(",".join(review) + "\n" + ",".join(map(str, review.values())) + "\n")
        case _:
            pq.write_table(pa.Table.from_pylist([review]), path)
    return path


@pytest.mark.parametrize("name", ["Books.json", "Books.csv", "Books.parquet"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_layout_is_read_from_every_format(
    ingest_settings: IngestSettings, tmp_path: Path, layout: Layout, name: str
) -> None:
    review, unit = CASES[layout.name]
    assert unit == {"s": 1000, "ms": 1}[layout.unit]
    assert layout_of(list(review)) == layout
    assert read(write_review(tmp_path, review, name), ingest_settings) == [("A1", "B1", 4.0, NOON)]


@pytest.mark.parametrize("name", ["Books.json", "Books.csv", "Books.parquet"])
def test_a_layout_needs_only_its_entry_in_layouts(
    ingest_settings: IngestSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = write_review(tmp_path, {"uid": "A1", "sku": "B1", "ts": NOON * 1000, "stars": 4.0}, name)
    with pytest.raises(TapestryError, match="Found: uid, sku, ts, stars"):
        read(path, ingest_settings)
    added = Layout(name="shop-2030", user="uid", item="sku", timestamp="ts", rating="stars", unit="ms")
    for module in ("layouts", "open_reader"):
        monkeypatch.setattr(f"tapestry.ingest.{module}.LAYOUTS", (*LAYOUTS, added))
    assert read(path, ingest_settings) == [("A1", "B1", 4.0, NOON)]
