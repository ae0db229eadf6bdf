"""Reads raw content as the rows that ingest classifies, in blocks and batches of any size."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tapestry.ingest import csv_rows, json_rows
from tapestry.ingest.open_reader import open_reader


@contextmanager
def small_blocks(block_bytes: int, batch_rows: int = 1 << 17) -> Iterator[None]:
    """Make text files be read in blocks of `block_bytes` and in batches of `batch_rows`."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (csv_rows, json_rows):
            patch.setattr(module, "_BLOCK_BYTES", block_bytes)
            patch.setattr(module, "BATCH_ROWS", batch_rows)
        yield


def read_rows(content: bytes, name: str, block_bytes: int, batch_rows: int = 1 << 17) -> list[dict[str, Any]]:
    """Return the rows of a file with this name and content, in order."""
    with tempfile.TemporaryDirectory() as folder, small_blocks(block_bytes, batch_rows):
        path = Path(folder, name)
        path.write_bytes(gzip.compress(content, 1, mtime=0) if name.endswith(".gz") else content)
        reader, layout = open_reader(path)
        batches = list(reader.batches(layout))
        assert all(len(batch) <= batch_rows for batch in batches)
        return sorted((row for batch in batches for row in batch.to_pylist()), key=lambda row: int(row["row"]))
