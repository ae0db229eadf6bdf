"""Opens a raw file: the reader of its format, and the layout of its columns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tapestry.core.errors import TapestryError, one_line
from tapestry.ingest.csv_rows import CsvRows
from tapestry.ingest.json_rows import JsonRows
from tapestry.ingest.layouts import LAYOUTS, Layout, layout_of
from tapestry.ingest.parquet_rows import ParquetRows
from tapestry.ingest.raw import RawFile
from tapestry.ingest.rows import Reader

_SHOWN_COLUMNS = 30


def open_reader(path: Path, given: tuple[str, ...] = ()) -> tuple[Reader, Layout]:
    """Open a raw file and find its layout.

    Args:
        given: further columns that the file must have (`ingest.given_columns`).

    Raises:
        TapestryError: the file can't be read, or has the columns of no layout, or lacks a given column; the message
            lists the columns found and accepted.
    """
    file = RawFile.open(path)
    reader: Reader
    match file.format:
        case "json":
            reader = JsonRows(file)
        case "csv":
            reader = CsvRows(file)
        case "parquet":
            reader = ParquetRows(file)
    layout = layout_of(reader.columns)
    if layout is None:
        found = [one_line(name) for name in reader.columns]
        more = f" and {len(found) - _SHOWN_COLUMNS} more" if len(found) > _SHOWN_COLUMNS else ""
        accepted = "\n  ".join(map(str, LAYOUTS))
        raise TapestryError(
            f"{path}: no known set of columns. Found: {', '.join(found[:_SHOWN_COLUMNS]) or 'none'}{more}. "
            f"Accepted:\n  {accepted}\nor, in CSV without a header, Amazon's user, item, rating, timestamp "
            f"(2014) or item, user, rating, timestamp (2018){_hint(file)}"
        )
    if missing := [name for name in given if name not in reader.columns]:
        found = [one_line(name) for name in reader.columns[:_SHOWN_COLUMNS]]
        raise TapestryError(
            f"{path}: no column {', '.join(missing)}, which ingest.given_columns names. Found: {', '.join(found)}. Add "
            "the column to the file, or take it out of ingest.given_columns"
        )
    return reader, replace(layout, given=given)


def _hint(file: RawFile) -> str:
    """Say what the file looks like instead; empty if that isn't clear."""
    head = file.head.lstrip() if file.format != "parquet" else b""
    if head[:1] == b"<":
        return ". This looks like a web page or XML"
    if file.format == "csv" and head[:1] == b"{":
        return ". This looks like JSON lines: name it .jsonl"
    if file.format == "json" and head.partition(b"\n")[0].rstrip().endswith(b"},"):
        return ". Its lines end in a comma, which JSON lines don't: remove these"
    if file.format == "json" and head[:1] not in b"{":
        return ". This doesn't look like JSON; a file of columns is named .csv or .tsv"
    return ""
