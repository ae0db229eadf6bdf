"""Find the first difference of two files: a row, a tensor's element, a line or a byte, depending on the format."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tapestry.core.errors import TapestryError, shown

_BLOCK = 1 << 20


def first_difference(one: Mapping[str, Path], other: Mapping[str, Path], of_one: str, of_other: str) -> str | None:
    """Describe the first difference of two sets of files by name; None if they are equal.

    Args:
        of_one, of_other: words that name each side in the description, such as `here` and `in the rerun`.
    """
    for name in sorted({*one, *other}):
        if name not in other:
            return f"{name} is missing {of_other}"
        if name not in one:
            return f"{name} is missing {of_one}"
        if not _same_bytes(one[name], other[name]):
            return f"{name}: {differing(name, one[name], other[name], of_one, of_other)}"
    return None


def differing(name: str, one: Path, other: Path, of_one: str, of_other: str) -> str:
    """Describe the first difference of two files, whose format is given by the suffix of `name`."""
    try:
        if name.endswith(".parquet"):
            return _rows(one, other, of_one, of_other)
        if name.endswith(".safetensors"):
            return _tensors(one, other, of_one, of_other)
        if name.endswith((".json", ".csv", ".html", ".jsonl", ".json.gz", ".csv.gz", ".jsonl.gz")):
            return _lines(one, other, of_one, of_other)
    except Exception as error:  # readers raise many classes for damaged files
        return f"{_byte(one, other, of_one, of_other)}, and it can't be read ({shown(str(error))})"
    return _byte(one, other, of_one, of_other)


def _rows(one: Path, other: Path, of_one: str, of_other: str) -> str:
    ours, theirs = pq.ParquetFile(one), pq.ParquetFile(other)
    if ours.schema_arrow != theirs.schema_arrow:
        return f"columns {ours.schema_arrow.names} {of_one}, {theirs.schema_arrow.names} {of_other}, or their types"
    first: tuple[int, str, Any, Any] | None = None
    for column in ours.schema_arrow.names:  # one at a time, since tables may be large
        mine, its = (file.read([column])[column].combine_chunks() for file in (ours, theirs))
        both = min(len(mine), len(its))
        row = _first_apart(mine[:both], its[:both])
        if row is not None and (first is None or row < first[0]):
            first = (row, column, mine[row].as_py(), its[row].as_py())
    if first is not None:
        row, column, mine, its = first
        return f"row {row + 1}, {column} is {shown(mine)} {of_one}, {shown(its)} {of_other}"
    mine, its = ours.metadata, theirs.metadata
    if mine.num_rows != its.num_rows:
        return f"{mine.num_rows} rows {of_one}, {its.num_rows} {of_other}"
    return f"the same rows, written by {mine.created_by} {of_one}, {its.created_by} {of_other}"


def _first_apart(one: pa.Array, other: pa.Array) -> int | None:
    same = pc.or_(pc.fill_null(pc.equal(one, other), False), pc.and_(pc.is_null(one), pc.is_null(other)))
    if pa.types.is_floating(one.type):
        both_nan = pc.and_(pc.is_nan(one), pc.is_nan(other))
        same = pc.or_(same, pc.fill_null(both_nan, False))
    row = pc.index(same, False).as_py()
    return None if row < 0 else int(row)


def _tensors(one: Path, other: Path, of_one: str, of_other: str) -> str:
    from safetensors import safe_open

    with ExitStack() as stack:
        mine, its = (stack.enter_context(safe_open(path, framework="pt")) for path in (one, other))
        names = sorted({*mine.keys(), *its.keys()})
        for name in names:
            if name not in mine.keys() or name not in its.keys():  # noqa: SIM118  (not a mapping: `in` needs keys())
                return f"tensor {name} is missing {of_one if name not in mine.keys() else of_other}"  # noqa: SIM118
            left, right = mine.get_tensor(name), its.get_tensor(name)
            if left.shape != right.shape or left.dtype != right.dtype:
                return (
                    f"tensor {name} is {left.dtype} {tuple(left.shape)} {of_one}, "
                    f"{right.dtype} {tuple(right.shape)} {of_other}"
                )
            apart = ((left != right) & ~((left != left) & (right != right))).flatten()  # two NaNs count as equal
            if apart.any():
                index = int(apart.nonzero()[0])
                return (
                    f"tensor {name}: {int(apart.sum())} of {apart.numel()} numbers differ, number {index + 1} is "
                    f"{left.flatten()[index].item()} {of_one}, {right.flatten()[index].item()} {of_other}"
                )
    return f"equal tensors; {_byte(one, other, of_one, of_other)}"


def _lines(one: Path, other: Path, of_one: str, of_other: str) -> str:
    for count, (mine, its) in enumerate(itertools.zip_longest(_unpacked(one), _unpacked(other)), 1):
        if mine != its:
            return f"line {count} is {_line(mine)} {of_one}, {_line(its)} {of_other}"
    return f"equal lines; {_byte(one, other, of_one, of_other)}"


def _line(line: bytes | None) -> str:
    return "missing" if line is None else shown(line.decode(errors="replace").strip())


def _unpacked(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        with gzip.open(file) if packed else file as lines:
            yield from lines


def _byte(one: Path, other: Path, of_one: str, of_other: str) -> str:
    offset = 0
    with one.open("rb") as mine, other.open("rb") as its:
        while True:
            left, right = mine.read(_BLOCK), its.read(_BLOCK)
            if left != right:
                apart = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), None)
                if apart is not None:
                    return f"byte {offset + apart + 1} is {left[apart]} {of_one}, {right[apart]} {of_other}"
                return f"{one.stat().st_size} bytes {of_one}, {other.stat().st_size} {of_other}"
            if not left:
                raise TapestryError(f"{one} and {other} don't differ")
            offset += len(left)


def _same_bytes(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as mine, other.open("rb") as its:
        while left := mine.read(_BLOCK):
            if left != its.read(_BLOCK):
                return False
    return True
