"""Reader of Parquet: finds columns by their exact names and turns values of every type into equivalent text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tapestry.core.arrow import integers
from tapestry.core.errors import TapestryError
from tapestry.ingest.layouts import Layout
from tapestry.ingest.raw import RawFile
from tapestry.ingest.rows import BATCH_ROWS, INVALID_UTF8, KEYS, Query, column_indices, has_replacement, joined_text

_UNREADABLE = (pa.ArrowException, OSError)


class ParquetRows:
    """Batches of (row int64, and each of KEYS as string). Rows are counted from 1.

    Raises:
        TapestryError: not a Parquet file, or a damaged one; from `batches`, also a column that occurs twice.
    """

    schema = pa.schema([("row", pa.int64())] + [(key, pa.string()) for key in KEYS])

    def __init__(self, file: RawFile) -> None:
        self._file = file
        try:
            self._parquet = pq.ParquetFile(file.path)
            self._types = self._parquet.schema_arrow
        except _UNREADABLE as error:
            raise TapestryError(f"{file.path}: not a Parquet file, or a damaged one: {error}") from error
        self.columns: list[str] = list(self._types.names)
        self._rows_left = self._parquet.metadata.num_rows

    def query(self, layout: Layout) -> Query:
        kinds = {}
        for key in ("user", "item"):
            if (kind := _kind_of_id(self._type(layout.by_key[key]))) is not None:
                kinds[key] = f"'{kind}'"
        timestamp_type = self._type(layout.timestamp)
        if pa.types.is_float16(timestamp_type) or pa.types.is_float32(timestamp_type):
            kinds["timestamp"] = "'FLOAT'"
        keys = [key for key, name in layout.by_key.items() if name in self.columns]
        binary = [key for key in keys if self._is_binary(layout.by_key[key])]
        return Query(
            select="FROM raw_rows",
            text=joined_text(keys),
            problem=f"CASE WHEN {has_replacement(binary)} THEN '{INVALID_UTF8}' END",
            unit="ms" if _is_time(timestamp_type) else layout.unit,
            kinds=kinds,
        )

    def batches(self, layout: Layout) -> Iterator[pa.RecordBatch]:
        names = {key: layout.by_key[key] for key in column_indices(self._file.path, self.columns, layout)}
        rows = 0
        try:
            for batch in self._parquet.iter_batches(BATCH_ROWS, columns=list(names.values())):
                self._rows_left -= len(batch)
                values = [
                    _as_text(batch.column(names[key]), key) if key in names else pa.nulls(len(batch), pa.string())
                    for key in KEYS
                ]
                numbers = integers(np.arange(rows + 1, rows + 1 + len(batch)))
                rows += len(batch)
                yield pa.RecordBatch.from_arrays([numbers, *values], schema=self.schema)
        except _UNREADABLE as error:
            raise TapestryError(f"{self._file.path}: can't be read: {error}; write or copy the file again") from error

    def rows_left(self) -> int:
        return int(self._rows_left)

    def _type(self, name: str) -> pa.DataType:
        return _value_type(self._types.field(self.columns.index(name)).type)

    def _is_binary(self, name: str) -> bool:
        kind = self._type(name)
        binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
        return any(is_type(kind) for is_type in binary)


def _value_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values, also of a dictionary's (pandas calls such a column categorical)."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _kind_of_id(kind: pa.DataType) -> str | None:
    """The `Query.kinds` of an id of this type; None for text and whole numbers, which need no check of the type."""
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
    """Turn a column's values into text, and missing values into null.

    - A whole float becomes an integer: 1.0 → "1".
    - A timestamp becomes milliseconds since 1970 UTC. Without a time zone it is taken as UTC.
    - Bytes that aren't UTF-8 become U+FFFD.
    - A rating that is NaN is missing.
    """
    kind = _value_type(column.type)
    if kind != column.type:
        column = column.dictionary_decode()
    if _is_time(kind) and key == "timestamp":
        return column.cast(pa.timestamp("ms", getattr(kind, "tz", None)), safe=False).cast(pa.int64()).cast(pa.string())
    if pa.types.is_floating(kind):
        values = column.cast(pa.float64())
        return _float_text(pc.if_else(pc.is_nan(values), None, values) if key == "rating" else values)
    if pa.types.is_decimal(kind):
        return pc.replace_substring_regex(column.cast(pa.string()), r"\.0+$", "")
    if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):  # such as a UUID
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
