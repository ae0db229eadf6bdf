"""Raw content written to a file and read back as the rows that ingest sees."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tapestry.ingest import csv_rows, json_rows
from tapestry.ingest.classify import open_reader


@contextmanager
def small_pieces(block_bytes: int, batch_rows: int = 1 << 17) -> Iterator[None]:
    """Text files are read in blocks of `block_bytes` and handed on in batches of `batch_rows`."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (csv_rows, json_rows):
            patch.setattr(module, "_BLOCK_BYTES", block_bytes)
            patch.setattr(module, "BATCH_ROWS", batch_rows)
        yield


def read_rows(content: bytes, name: str, block_bytes: int, batch_rows: int = 1 << 17) -> list[dict[str, Any]]:
    """The rows of a file of that name and content, in their order."""
    with tempfile.TemporaryDirectory() as folder, small_pieces(block_bytes, batch_rows):
        path = Path(folder, name)
        path.write_bytes(gzip.compress(content, 1, mtime=0) if name.endswith(".gz") else content)
        reader, layout = open_reader(path)
        batches = list(reader.batches(layout))
        assert all(len(batch) <= batch_rows for batch in batches)
        return sorted((row for batch in batches for row in batch.to_pylist()), key=lambda row: int(row["row"]))
