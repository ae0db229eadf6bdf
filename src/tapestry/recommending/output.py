"""Recommendations as text, as JSON lines and as Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tapestry.core.atomic import atomic_file
from tapestry.core.errors import one_line
from tapestry.recommending.recommendations import Recommendation

_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("domain", pa.string()),
        ("rank", pa.int32()),
        ("item_id", pa.string()),
        ("score", pa.float64()),
    ]
)
_GROUP = 1 << 14  # recommendations in a row group of Parquet


def as_text(recommendations: Iterable[Recommendation]) -> Iterator[str]:
    """Yield a table's lines for each user and domain: one item a line, with its rank and score."""
    user_id = None
    for found in recommendations:
        if found.user_id != user_id:
            user_id = found.user_id
            skipped = f", {found.unknown} unknown skipped" if found.unknown else ""
            yield f"{one_line(user_id)} ({found.known} items{skipped})"
        yield f"  {one_line(found.domain)}"
        width = max((len(one_line(item)) for item in found.items), default=0)
        for rank, (item, score) in enumerate(zip(found.items, found.scores, strict=True), start=1):
            yield f"  {rank:4}  {one_line(item):{width}}  {score:7.4f}"
        if not found.items:
            yield "        nothing: " + ("all items of the domain are seen" if found.known else "no item is known")


def as_json(recommendations: Iterable[Recommendation]) -> Iterator[str]:
    """Yield one JSON object a line: user_id, domain, items and scores (best first), unknown (items skipped)."""
    for found in recommendations:
        row = {key: getattr(found, key) for key in ("user_id", "domain", "items", "scores", "unknown")}
        yield json.dumps(row, ensure_ascii=False, allow_nan=False)


def write_parquet(recommendations: Iterable[Recommendation], path: Path) -> int:
    """Write one row an item (user_id, domain, rank from 1, item_id, score), atomically. Return the number of rows."""
    rows, remaining = 0, iter(recommendations)
    with atomic_file(path) as temporary, pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as writer:
        while group := list(islice(remaining, _GROUP)):
            table = _table(group)
            writer.write_table(table)
            rows += len(table)
    return rows


def _table(group: list[Recommendation]) -> pa.Table:
    columns = {
        "user_id": [found.user_id for found in group for _ in found.items],
        "domain": [found.domain for found in group for _ in found.items],
        "rank": [rank for found in group for rank in range(1, len(found.items) + 1)],
        "item_id": [item for found in group for item in found.items],
        "score": [score for found in group for score in found.scores],
    }
    return pa.table(columns, schema=_SCHEMA)
