"""CSV rows, compared with an oracle for any quotes and any size of the blocks in which the file is read."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles.csv_records import physical_lines, read_records
from raw_rows import read_rows, small_blocks

from tapestry.core.errors import TapestryError
from tapestry.ingest import csv_records, csv_rows
from tapestry.ingest.csv_records import Problem
from tapestry.ingest.open_reader import open_reader

Rows = list[dict[str, Any]]
HEADER = ("item_id", "note", "user_id", "timestamp")
WIDTH, TIMESTAMP = len(HEADER), HEADER.index("timestamp")


def expected_rows(body: bytes, delimiter: bytes) -> Rows:
    rows = []
    for number, record in enumerate(read_records(body, delimiter, WIDTH, TIMESTAMP), start=1):
        fields = [field.decode("utf-8", "replace") for field in record.fields]
        values: dict[str, str | None] = dict.fromkeys(HEADER) | dict(zip(HEADER, fields, strict=False))
        text = None if record.problem is None else record.text.decode("utf-8", "replace")
        rows.append(
            {
                "row": number,
                "problem": record.problem,
                "text": text,
                "user": values["user_id"],
                "item": values["item_id"],
                "timestamp": values["timestamp"],
                "rating": None,
                "position": None,
                "split": None,
            }
        )
    return rows


# Few different characters, so that quotes, delimiters and line ends occur in every order.
pieces = st.sampled_from(
    [b'"', b'"', b'""', b",", b",", b"\n", b"\n", b"\r\n", b"\r", b"7", b"x", b" ", b"\xff", "é".encode(), b"B,n,A,7\n"]
)
whole_fields = st.sampled_from([b"a", b"", b'"c,d"', b'"e\nf"', b'"g""h"', b' "i"', b'6" j', b"\xffk", b'"l\r\nm,n"'])
whole_rows = st.tuples(whole_fields, whole_fields, whole_fields, st.sampled_from([b"7", b'"7"', b""])).map(b",".join)


@settings(max_examples=400, deadline=None)
@given(
    parts=st.lists(st.lists(pieces, max_size=8).map(b"".join) | whole_rows.map(lambda row: row + b"\n"), max_size=12),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf", b"\n \r\n"]),
    delimiter=st.sampled_from(csv_rows.DELIMITERS),
    name=st.sampled_from(["a.csv", "a.csv.gz", "a.tsv", "a.inter"]),
    block_bytes=st.integers(1, 60),
    batch_rows=st.integers(1, 4),
)
@example([b'B,"n,A,7\n', b'B,6",A,7\n'], b"", b",", "a.csv", 5, 2)  # each line is a row: no line break inside quotes
@example([b'"x\n', b"B,n,A,7\n", b'y",n,A,7\n'], b"", b",", "a.csv", 5, 2)
def test_csv_rows_equal_those_of_the_oracle(
    parts: list[bytes], mark: bytes, delimiter: bytes, name: str, block_bytes: int, batch_rows: int
) -> None:
    header, body = (text.replace(b",", delimiter) for text in (",".join(HEADER).encode() + b"\r\n", b"".join(parts)))
    rows = read_rows(mark + header + body, name, block_bytes, batch_rows)
    assert rows == expected_rows(body, delimiter)
    covered = sum(len(physical_lines(record.text)) or 1 for record in read_records(body, delimiter, WIDTH, TIMESTAMP))
    assert covered == len(physical_lines(body))


texts = st.text(st.sampled_from('ab,"\n;é '), max_size=6)


@settings(max_examples=100, deadline=None)
@given(
    table=st.lists(st.tuples(texts, texts, texts, st.sampled_from(["1378252800", "soon"])), max_size=8),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    line_end=st.sampled_from(["\n", "\r\n"]),
    block_bytes=st.integers(1, 60),
)
def test_csv_written_by_the_standard_library_is_read_back(
    table: list[tuple[str, ...]], quoting: Any, line_end: str, block_bytes: int
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=quoting, lineterminator=line_end).writerows([HEADER, *table])
    rows = read_rows(text.getvalue().encode(), "a.csv", block_bytes)
    # A field that looks like a whole row makes its record bad, which other tests check.
    if all(row["problem"] is None for row in rows):
        assert [(row["item"], row["user"], row["timestamp"]) for row in rows] == [(i, u, t) for i, _, u, t in table]
    else:
        assert {row["problem"] for row in rows} & {Problem.CONTAINS_ROWS.reason, Problem.BLANK.reason}


def many_rows(opening: bytes, at: int, rows: int) -> bytes:
    lines = [b"B%d,note,A%d,%d" % (row % 7, row, 1378252800 + row) for row in range(rows)]
    lines[at] = opening
    return ",".join(HEADER).encode() + b"\n" + b"\n".join(lines) + b"\n"


@pytest.mark.parametrize("field", range(WIDTH))
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_quote_that_is_never_closed_costs_only_its_own_row(field: int, name: str) -> None:
    opening = b",".join(b'"open' if index == field else b"7" for index in range(WIDTH))
    rows = read_rows(many_rows(opening, 150, 3000), name, 4096)
    assert [(row["row"], row["problem"]) for row in rows if row["problem"]] == [(151, "quote not closed")]
    assert [row["user"] for row in rows] == [f"A{row}" if row != 150 else None for row in range(3000)]


def test_a_quoted_field_longer_than_the_longest_record_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapestry.ingest.csv_records.LONGEST_RECORD", 5000)
    monkeypatch.setattr("tapestry.ingest.csv_rows.LONGEST_RECORD", 5000)
    rows = read_rows(many_rows(b'B,"open,A,7', 20, 3000), "a.csv", 1000)
    assert [row["row"] for row in rows if row["problem"] == "quote not closed"] == [21]
    assert len(rows) == 3000


@pytest.mark.parametrize("block_bytes", [100, 7000])
def test_a_line_longer_than_the_longest_record_is_one_bad_row(
    monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr("tapestry.ingest.csv_records.LONGEST_RECORD", 5000)
    monkeypatch.setattr("tapestry.ingest.csv_rows.LONGEST_RECORD", 5000)
    long = [b"B," + b"x" * length + b",A,7" for length in (4900, 6000, 90_000)]
    rows = read_rows(many_rows(b"\n".join(long), 3, 10), "a.csv", block_bytes)
    assert [(row["row"], row["problem"]) for row in rows if row["problem"]] == [
        (5, "longer than 16 MiB"),
        (6, "longer than 16 MiB"),
    ]
    assert [row["user"] for row in rows[3:7]] == ["A", None, None, "A4"]


@pytest.mark.parametrize("line", [b'x",A,"y\n', b'"""x\n', b'x,"y\n', b'""\n', b'"",""\n', b'"\n'])
def test_the_time_to_scan_quotes_is_linear(monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    class Counting:
        matched = 0

        def match(self, data: bytes, index: int) -> re.Match[bytes] | None:
            match = quoted.match(data, index)
            self.matched += match.end() - index if match else len(data) - index
            return match

    quoted = csv_records._QUOTED
    work = []
    for count in (2000, 4000):
        monkeypatch.setattr(csv_records, "_QUOTED", counting := Counting())
        body = b'B,"n\n' + line * count
        rows = read_rows(",".join(HEADER).encode() + b"\n" + body, "a.csv", 1 << 20)
        assert len(rows) >= 1
        work.append(counting.matched + 1000)
    assert work[1] < 2.5 * work[0]


@pytest.mark.parametrize(
    "header",
    [
        b"item_id,note,user_id,timestamp",
        b"\xef\xbb\xbfitem_id,note,user_id,timestamp",
        b'"item_id","no,te","user_id","timestamp"',
        b'"item_id","no\nte","user_id","timestamp"',
        b"item_id , note, user_id,timestamp",
        b'item_id, "note", "user_id", timestamp',
        b"item_id;note;user_id;timestamp",
        b"item_id|note|user_id|timestamp",
        b"item_id:token\tnote:token_seq\tuser_id:token\ttimestamp:float",
        b"\n\r\nitem_id,note,user_id,timestamp",
    ],
)
def test_csv_columns_are_found_by_name_in_any_notation_of_the_header(header: bytes) -> None:
    delimiter = next(delimiter for delimiter in (b"\t", b";", b"|", b",") if delimiter in header)
    rows = read_rows(header + b"\r\n" + b"i,n,u,7\r\n".replace(b",", delimiter), "a.csv", 1000)
    assert [(row["row"], row["item"], row["user"], row["timestamp"]) for row in rows] == [(1, "i", "u", "7")]


def read_all(path: Path) -> None:
    reader, layout = open_reader(path)
    list(reader.batches(layout))


def refused(tmp_path: Path, content: bytes, name: str = "Books.csv") -> str:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TapestryError) as caught:
        read_all(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_duplicate_of_a_needed_column_is_refused_and_of_another_is_not(tmp_path: Path) -> None:
    message = refused(tmp_path, b"user_id,item_id,timestamp,user_id\nA,B,7,C\n")
    assert "column user_id is there 2 times (columns 1, 4)" in message
    rows = read_rows(b"user_id,item_id,timestamp,note,note,row,problem\nA,B,7,x,y,z,w\n", "a.csv", 1000)
    assert [(row["row"], row["user"], row["problem"]) for row in rows] == [(1, "A", None)]


def test_lines_above_the_header_are_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, b"# exported by hand\n\nuser_id,item_id,timestamp\nA,B,7\n")
    assert "the names of the columns are in line 3, not at the top; delete the lines above" in message


@pytest.mark.parametrize("content", [b"\n", b" \r\n\t\n", b"\xef\xbb\xbf"])
def test_a_file_of_whitespace_has_no_rows(tmp_path: Path, content: bytes) -> None:
    assert "holds no rows" in refused(tmp_path, content)


def test_a_field_may_be_long(tmp_path: Path) -> None:
    long = b"x" * 3_000_000
    rows = read_rows(b"user_id,item_id,timestamp,note\nA,B,7," + long + b"\nA,B,8,n\n", "a.csv", 1 << 22)
    assert [row["timestamp"] for row in rows] == ["7", "8"]


def test_a_difference_between_split_and_parsed_rows_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "Books.csv"
    path.write_bytes(b"user_id,item_id,timestamp\nA,B,7\nA,B,8\n")
    for fault, message in (("_count_lines", "lines were read as"), ("_bytes_of", "were split and")):
        with monkeypatch.context() as patch, small_blocks(1000):
            patch.setattr(csv_rows, fault, {"_count_lines": lambda data: 5, "_bytes_of": lambda *_: b"A,B,7\n"}[fault])
            reader, layout = open_reader(path)
            with pytest.raises(TapestryError, match=message):
                list(reader.batches(layout))
