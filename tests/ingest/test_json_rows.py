"""JSON lines are read the same for any size of the blocks in which the file is read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_rows import read_rows

from tapestry.core.errors import TapestryError
from tapestry.ingest.json_rows import JsonRows
from tapestry.ingest.raw import RawFile


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=6) | st.sampled_from([b"\r", b"", b"x" * 100, "é€😀".encode()]), max_size=12),
    ends_with_newline=st.booleans(),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    name=st.sampled_from(["a.json", "a.jsonl.gz"]),
    block_bytes=st.integers(1, 40),
    batch_rows=st.integers(1, 5),
)
def test_lines_are_read_in_order_for_any_size_of_block(
    lines: list[bytes], ends_with_newline: bool, mark: bytes, name: str, block_bytes: int, batch_rows: int
) -> None:
    first = b'{"user_id": "A", "item_id": "B", "timestamp": 1}\n'
    content = first + b"\n".join(lines) + (b"\n" if ends_with_newline else b"")
    expected = [line.removesuffix(b"\n") + b"\n" for line in io.BytesIO(content)]
    rows = read_rows(mark + content, name, block_bytes, batch_rows)
    assert rows == [{"row": number, "line": line, "json": None} for number, line in enumerate(expected, start=1)]


SPREAD = b'{\n  "user_id": "A1",\n  "item_id": "B1"\n}\n'


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'[{"user_id": "A1"}, {"user_id": "A2"}]', "a JSON array"),
        (b'\xef\xbb\xbf\n [\n{"user_id": "A1"},\n{"user_id": "A2"}\n]\n', "a JSON array"),
        (SPREAD * 3, "JSON objects spread over several lines"),
        (b"\r\n" + SPREAD.replace(b"\n", b"\r\n"), "JSON objects spread over several lines"),
    ],
)
def test_json_that_is_not_one_object_a_line_is_refused_with_the_fix(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "Books.json"
    path.write_bytes(content)
    with pytest.raises(TapestryError, match=f"{found}; one object a line is needed") as caught:
        JsonRows(RawFile.open(path))
    assert str(path) in str(caught.value)
    assert "lines=True" in str(caught.value)


@pytest.mark.parametrize("first", [b"{", b'{"user_id": "A', b"garbage", b'"text"', b"{'user_id': 1,"])
def test_a_bad_first_line_does_not_refuse_the_file(tmp_path: Path, first: bytes) -> None:
    path = tmp_path / "Books.json"
    path.write_bytes(first + b'\n{"user_id": "A1", "item_id": "B1", "timestamp": 1}\n' * 3)
    assert JsonRows(RawFile.open(path)).columns == ["user_id", "item_id", "timestamp"]
