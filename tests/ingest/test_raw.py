"""The format of a raw file, by its name and its first bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tapestry.core.errors import TapestryError
from tapestry.ingest.raw import HEAD_BYTES, RawFile

CSV = b"user_id,item_id,timestamp\nA1,B1,1378252800\n" * 20


def zipped() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("Books.csv", CSV)
    return sink.getvalue()


def tarred() -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        member = tarfile.TarInfo("Books.csv")
        member.size = len(CSV)
        archive.addfile(member, io.BytesIO(CSV))
    return sink.getvalue()


def as_parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"user_id": ["A1"]}), sink)
    return sink.getvalue()


@pytest.mark.parametrize("name", ["Books.csv", "Books.json", "Books.csv.gz", "Books.jsonl.gz"])
@pytest.mark.parametrize(
    ("content", "found"),
    [
        (zipped(), "a ZIP archive"),
        (tarred(), "a tar archive"),
        (as_parquet(), "a Parquet file: name it .parquet"),
        (bz2.compress(CSV), "a bzip2 file"),
        (lzma.compress(CSV), "an xz file"),
        (pickle.dumps({"A1": ["B1"] * 99}), "a Python pickle"),
        (CSV.decode().encode("utf-16"), "text in UTF-16"),
        (CSV.decode().encode("utf-16-le"), "text in UTF-16"),
        (CSV.decode().encode("utf-16-be"), "text in UTF-16"),
        (CSV.decode().encode("utf-32"), "text in UTF-16 or UTF-32"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value).replace(" ", "-"),
)
def test_a_file_of_another_format_is_refused_with_the_fix(
    tmp_path: Path, name: str, content: bytes, found: str
) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    with pytest.raises(TapestryError, match=f"this is {found}") as caught:
        RawFile.open(path)
    assert str(path) in str(caught.value)


def test_gzip_is_decompressed_once_also_without_its_suffix(tmp_path: Path) -> None:
    path = tmp_path / "Books.csv"
    path.write_bytes(gzip.compress(CSV, mtime=0))
    assert RawFile.open(path).head == CSV
    path.write_bytes(gzip.compress(gzip.compress(CSV), mtime=0))
    with pytest.raises(TapestryError, match="this is gzip inside gzip"):
        RawFile.open(path)


def test_text_with_some_nul_bytes_is_not_taken_for_utf_16(tmp_path: Path) -> None:
    path = tmp_path / "Books.csv"
    path.write_bytes(CSV + b"\0\0\0,B1,7\n")
    assert RawFile.open(path).format == "csv"


@pytest.mark.parametrize("name", ["Books.csv", "Books.csv.gz"])
def test_max_bytes_left_is_an_upper_bound(tmp_path: Path, name: str) -> None:
    content = CSV * 5000 + bytes(3_000_000)
    path = tmp_path / name
    path.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    blocks = RawFile.open(path).blocks(70_000)
    assert blocks.max_bytes_left >= len(content)
    read = 0
    for block in blocks:
        read += len(block)
        assert blocks.max_bytes_left >= len(content) - read
    assert (read, blocks.max_bytes_left) == (len(content), 0)


def test_the_head_has_no_byte_order_mark_and_at_most_its_size(tmp_path: Path) -> None:
    path = tmp_path / "Books.csv"
    path.write_bytes(b"\xef\xbb\xbf" + CSV * 2000)
    file = RawFile.open(path)
    assert file.head.startswith(b"user_id")
    assert (file.bom_bytes, len(file.head)) == (3, HEAD_BYTES - 3)
