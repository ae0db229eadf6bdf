"""Parquet as rows: columns found by their exact names, values of each type as text that says the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tapestry.core.errors import TapestryError
from tapestry.ingest.layouts import Layout
from tapestry.ingest.raw import RawFile
from tapestry.ingest.rows import BATCH_ROWS, Query

_KEYS = ("user", "item", "timestamp", "rating")
_UNREADABLE = (pa.ArrowException, OSError)


class ParquetRows:
    """Batches of (row int64, user, item, timestamp, rating string), rows counted from 1.

    Raises:
        TapestryError: not a Parquet file, a damaged one, or a needed column twice.
    """

    schema = pa.schema([("row", pa.int64())] + [(key, pa.string()) for key in _KEYS])

    def __init__(self, file: RawFile) -> None:
        self._file = file
        try:
            self._parquet = pq.ParquetFile(file.path)
            self._types = self._parquet.schema_arrow
        except _UNREADABLE as error:
            raise TapestryError(f"{file.path}: not a Parquet file, or a damaged one: {error}") from error
        self.columns: list[str] = list(self._types.names)
        self._left = self._parquet.metadata.num_rows

    def query(self, layout: Layout) -> Query:
        kinds = {}
        for key in ("user", "item"):
            if (kind := _kind_of_id(self._type(layout.by_key[key]))) is not None:
                kinds[key] = f"'{kind}'"
        moment = self._type(layout.timestamp)
        if pa.types.is_float16(moment) or pa.types.is_float32(moment):
            kinds["timestamp"] = "'FLOAT'"
        kept = [key for key, name in layout.by_key.items() if name in self.columns]
        invalid = " OR ".join(f"contains(\"{key}\", '\ufffd')" for key in kept if self._is_binary(layout.by_key[key]))
        return Query(
            select="FROM raw_rows",
            text=" || ',' || ".join(f"coalesce(\"{key}\", '')" for key in kept),
            problem=f"CASE WHEN {invalid or 'false'} THEN 'invalid UTF-8' END",
            unit="ms" if _is_moment(moment) else layout.unit,
            kinds=kinds,
        )

    def batches(self, layout: Layout) -> Iterator[pa.RecordBatch]:
        names = {key: name for key, name in layout.by_key.items() if name in self.columns}
        for name in names.values():
            if self.columns.count(name) > 1:
                raise TapestryError(
                    f"{self._file.path}: column {name} is there {self.columns.count(name)} times; rename all but the "
                    "one that counts"
                )
        rows = 0
        try:
            for batch in self._parquet.iter_batches(BATCH_ROWS, columns=list(names.values())):
                self._left -= len(batch)
                values = [
                    _as_text(batch.column(names[key]), key) if key in names else pa.nulls(len(batch), pa.string())
                    for key in _KEYS
                ]
                numbers = pa.array(np.arange(rows + 1, rows + 1 + len(batch)))
                rows += len(batch)
                yield pa.RecordBatch.from_arrays([numbers, *values], schema=self.schema)
        except _UNREADABLE as error:
            raise TapestryError(f"{self._file.path}: can't be read: {error}; write or copy the file again") from error

    def rows_left(self) -> int:
        return int(self._left)

    def _type(self, name: str) -> pa.DataType:
        return _plain(self._types.field(self.columns.index(name)).type)

    def _is_binary(self, name: str) -> bool:
        kind = self._type(name)
        binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
        return any(is_one(kind) for is_one in binary)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of a dictionary's values (pandas calls such columns categorical)."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_moment(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _kind_of_id(kind: pa.DataType) -> str | None:
    """What an id of this type is, as `classify` names it; None for text and whole numbers, which need no look."""
    if pa.types.is_float64(kind):
        return "DOUBLE"
    if pa.types.is_floating(kind):
        return "FLOAT"
    if pa.types.is_boolean(kind):
        return "BOOLEAN"
    if pa.types.is_temporal(kind):
        return "TIME"
    if pa.types.is_struct(kind) or pa.types.is_map(kind):
        return "OBJECT"
    return "ARRAY" if pa.types.is_nested(kind) else None


def _as_text(column: Any, key: str) -> pa.Array:
    """A column's values as text, null where there is none.

    Whole floats are written as integers, moments in milliseconds since 1970 UTC (without a zone, they are taken as
    UTC), bytes that aren't UTF-8 with U+FFFD; a rating that is NaN is none.
    """
    kind = _plain(column.type)
    if kind != column.type:
        column = column.dictionary_decode()
    if _is_moment(kind) and key == "timestamp":
        return column.cast(pa.timestamp("ms", getattr(kind, "tz", None)), safe=False).cast(pa.int64()).cast(pa.string())
    if pa.types.is_floating(kind):
        values = column.cast(pa.float64())
        return _float_text(pc.if_else(pc.is_nan(values), None, values) if key == "rating" else values)
    if pa.types.is_decimal(kind):
        return pc.replace_substring_regex(column.cast(pa.string()), r"\.0+$", "")
    if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):  # UUIDs, for one
        return pa.array([None if value is None else str(value)[:1000] for value in column.to_pylist()], pa.string())
    if pa.types.is_fixed_size_binary(kind):
        column = column.cast(pa.binary())
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([None if v is None else v.decode("utf-8", "replace") for v in column.to_pylist()], pa.string())


def _float_text(values: Any) -> pa.Array:
    whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), 9e18))
    integers = pc.if_else(whole, values, 0.0).cast(pa.int64())
    return pc.if_else(whole, integers.cast(pa.string()), values.cast(pa.string()))
