"""Rows of raw text files, whatever the blocks in which the file is read."""

from __future__ import annotations

import gzip
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tapestry.data.raw
from tapestry.data.raw import RawFile, RowStream

Rows = list[dict[str, object]]
HEADER = b"item,note,user\n"


def read(content: bytes, name: str, block_bytes: int) -> Rows:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tapestry.data.raw, "_BLOCK_BYTES", block_bytes)
        path = Path(folder, name)
        path.write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)
        file = RawFile.open(path)
        stream: RowStream = file.read_lines() if file.format == "json" else file.read_csv(["user", "item"])
        rows: Rows = stream.reader.read_all().to_pylist()
        return rows


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=6) | st.sampled_from([b"\r", b"", b"x" * 100, "é€😀".encode()]), max_size=12),
    ends_with_newline=st.booleans(),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    name=st.sampled_from(["a.json", "a.jsonl.gz"]),
    block_bytes=st.integers(1, 40),
)
def test_lines_are_those_of_the_whole_file_in_order(
    lines: list[bytes], ends_with_newline: bool, mark: bytes, name: str, block_bytes: int
) -> None:
    content = b"first\n" + b"\n".join(lines) + (b"\n" if ends_with_newline else b"")
    expected = [line.removesuffix(b"\n") + b"\n" for line in io.BytesIO(content)]
    rows = read(mark + content, name, block_bytes)
    assert rows == [{"row": number, "line": line, "json": None} for number, line in enumerate(expected, start=1)]


@dataclass(frozen=True)
class CsvRow:
    """A row as it stands in the file and what it means; no fields if their number is wrong."""

    text: bytes
    fields: tuple[str, str] | None


WORDS = {
    b"a": "a",
    b"": "",
    b" b ": " b ",
    b'"c,d"': "c,d",
    b'"e\nf"': "e\nf",
    b'"g""h"': 'g"h',
    "é€".encode(): "é€",
    b"\xffi": "\ufffdi",
    b"null": "null",
}
well_formed = st.builds(
    lambda user, item, note: CsvRow(b",".join([item, note, user]), (WORDS[user], WORDS[item])),
    *[st.sampled_from(list(WORDS))] * 3,
)
malformed = st.sampled_from([b"lonely", b"one,two", b"1,2,3,4", b'"q\nr",s', b"\xff,x", "é,ü,ö,ä".encode()]).map(
    lambda text: CsvRow(text, None)
)
blank = st.just(CsvRow(b"", ("", "")))


@settings(max_examples=60, deadline=None)
@given(
    csv_rows=st.lists(well_formed | malformed | blank, max_size=30),
    line_end=st.sampled_from([b"\n", b"\r\n"]),
    name=st.sampled_from(["a.csv", "a.csv.gz"]),
    block_bytes=st.integers(48, 200),
)
def test_csv_rows_are_those_of_the_whole_file_with_their_numbers(
    csv_rows: list[CsvRow], line_end: bytes, name: str, block_bytes: int
) -> None:
    content = HEADER + b"".join(row.text + line_end for row in csv_rows)
    expected = [
        {"row": number, "malformed": row.text.decode("utf-8", "replace"), "user": None, "item": None}
        if row.fields is None
        else {"row": number, "malformed": None, "user": row.fields[0], "item": row.fields[1]}
        for number, row in enumerate(csv_rows, start=1)
    ]
    assert sorted(read(content, name, block_bytes), key=lambda row: str(row["row"]).zfill(3)) == expected


def test_a_csv_file_of_more_bad_bytes_than_good_keeps_its_rows() -> None:
    content = HEADER + b"\xff\xfe,\xff,\xf0\x9f\n" * 500 + b"i,n,u"
    rows = read(content, "a.csv", 64)
    assert rows[:500] == [
        {"row": number, "malformed": None, "user": "\ufffd", "item": "\ufffd\ufffd"} for number in range(1, 501)
    ]
    assert rows[500:] == [{"row": 501, "malformed": None, "user": "u", "item": "i"}]


def test_a_csv_file_may_end_in_the_middle_of_a_character_at_the_start_of_a_block() -> None:
    content = HEADER + b"i,n,u\n" * 20 + b"i,n,u\xe2"
    rows = read(content, "a.csv", len(content) - 1)
    assert rows[19:] == [
        {"row": 20, "malformed": None, "user": "u", "item": "i"},
        {"row": 21, "malformed": None, "user": "u\ufffd", "item": "i"},
    ]


@pytest.mark.parametrize(
    "header",
    [
        b"item,note,user",
        b"\xef\xbb\xbfitem,note,user",
        b'"item","no,te","user"',
        b"item , note, user",
        b'item, "note", "user"',
    ],
)
def test_csv_columns_are_found_by_name_however_the_header_is_written(header: bytes) -> None:
    assert read(header + b"\r\ni,n,u\r\n", "a.csv", 1000) == [{"row": 1, "malformed": None, "user": "u", "item": "i"}]
