"""Raw files of a few reviews in every release and format, and what ingest makes of them."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tapestry.core.errors import TapestryError
from tapestry.ingest.ingest import ingest
from tapestry.ingest.settings import IngestSettings
from tapestry.parameters import Parameters

Row = dict[str, Any]
DAY = 86_400
NOON = 1_378_252_800  # seconds; 4 September 2013
NAMES = {
    "2018": ("reviewerID", "asin", "unixReviewTime", "overall"),
    "2023": ("user_id", "parent_asin", "timestamp", "rating"),
    "plain": ("user_id", "item_id", "timestamp", "rating"),
}
OTHER_COLUMNS: Row = {"helpful": "[0, 0]", "reviewText": 'He said "no",\nand left.', "asin": "not the parent's"}


@pytest.fixture(scope="session")
def ingest_settings(parameters: Parameters) -> IngestSettings:
    """The default section `ingest`."""
    return parameters.ingest


@pytest.fixture(scope="session")
def tolerant(ingest_settings: IngestSettings) -> IngestSettings:
    """The defaults, but any share of the rows may be unusable."""
    return replace(ingest_settings, max_quarantine_share=1.0)


@dataclass(frozen=True)
class Outcome:
    """What ingest returned, and the content of its files."""

    summary: Row
    interactions: list[Row]
    quarantine: list[Row]
    counts: Row
    types: dict[str, str]
    bytes: list[bytes]


def ingested(name: str, content: bytes, settings: IngestSettings) -> Outcome:
    """Ingest a raw file with this name and content."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, name)
        raw.write_bytes(content)
        outputs = [Path(folder, "out", part) for part in ("interactions.parquet", "quarantine.parquet", "counts.json")]
        summary = ingest(raw, "Books", settings, *outputs)
        interactions, quarantine = (pq.read_table(path) for path in outputs[:2])
        return Outcome(
            summary=summary,
            interactions=interactions.to_pylist(),
            quarantine=quarantine.to_pylist(),
            counts=json.loads(outputs[2].read_text()),
            types={field.name: str(field.type) for field in interactions.schema},
            bytes=[path.read_bytes() for path in outputs],
        )


def assert_refused(raw: Path, settings: IngestSettings, message: str) -> str:
    """Check that ingest raises an error that matches `message` and names the file, and writes nothing."""
    out = raw.parent / "out"
    with pytest.raises(TapestryError, match=message) as caught:
        ingest(raw, "Books", settings, out / "i.parquet", out / "q.parquet", out / "c.json")
    assert str(raw) in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert not out.exists()
    return str(caught.value)


def review(user: Any, item: Any, timestamp: Any, rating: Any = None, **others: Any) -> bytes:
    """A review as a JSON line with the column names of 2014."""
    values = {"reviewerID": user, "asin": item, "unixReviewTime": timestamp, **others}
    return json.dumps(values if rating is None else values | {"overall": rating}).encode()


def lines(*rows: bytes | bytearray) -> bytes:
    return b"".join(row + b"\n" for row in rows)


def table_bytes(rows: Sequence[Row]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink, row_group_size=2048)
    return sink.getvalue()


def csv_bytes(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


REVIEWS = [
    ("A2", "B1", NOON, 5.0),
    ("A1", "B2", NOON + 2 * DAY, 1.0),
    ('Ä, "z"', "B1", NOON, 2.5),
    ("A1", "B1", NOON + 2 * DAY, None),
    ("A1", "B3", NOON, 4.0),
]
INTERACTIONS = [
    {"user_id": user, "item_id": item, "timestamp": 1000 * time, "rating": rating, "domain": "Books", "row": row}
    for user, item, time, rating, row in [
        ("A1", "B3", NOON, 4.0, 5),
        ("A1", "B1", NOON + 2 * DAY, None, 4),
        ("A1", "B2", NOON + 2 * DAY, 1.0, 2),
        ("A2", "B1", NOON, 5.0, 1),
        ('Ä, "z"', "B1", NOON, 2.5, 3),
    ]
]


def reviews_file(release: str, kind: str) -> bytes:
    """The bytes of a file of REVIEWS with the column names and unit of one release, among other columns."""
    names = NAMES[release]
    scale = 1000 if release == "2023" else 1
    rows = [
        OTHER_COLUMNS | Row(zip(names, (user, item, time * scale, rating), strict=True))
        for user, item, time, rating in REVIEWS
    ]
    if kind == "parquet":
        return table_bytes(rows)
    if kind == "csv":
        first = [name for name in OTHER_COLUMNS if name not in names]
        return csv_bytes(rows, [*first, *reversed(names)])
    return lines(*(json.dumps({k: v for k, v in row.items() if v is not None}).encode() for row in rows))
