"""Columns from NumPy to Arrow and back, without pandas.

pyarrow's own `pa.array`, `pa.table` and `to_numpy` load pandas if it is installed, and a start of Python with pandas
takes .2 s longer: more than most stages need for small data. Columns without nulls only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tapestry.core.arrays import Integers

_MOST_TEXT = 2**31 - 1  # bytes of a column of texts, whose offsets are int32


def integers(values: Integers) -> pa.Array:
    """Return an int64 column, in the memory of `values` if these are contiguous."""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(np.ascontiguousarray(values, np.int64))])


def booleans(values: npt.NDArray[np.bool_]) -> pa.Array:
    """Return a column of booleans."""
    bits = np.packbits(values, bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(bits)])


def texts(values: Iterable[str]) -> pa.Array:
    """Return a column of texts.

    Raises:
        OverflowError: they have 2 GiB or more.
    """
    encoded = [value.encode() for value in values]
    offsets = np.concatenate([[0], np.cumsum([len(value) for value in encoded], dtype=np.int64)])
    if offsets[-1] > _MOST_TEXT:
        raise OverflowError(f"{offsets[-1]} bytes are too many for a column of texts")
    return pa.StringArray.from_buffers(
        len(encoded), pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(b"".join(encoded))
    )


def to_numpy(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Return a column's values: numbers as they are, in Arrow's memory and read-only; texts as objects; booleans.

    Raises:
        TypeError: there are nulls, or the type is another.
    """
    whole = column.combine_chunks()
    if whole.null_count:
        raise TypeError(f"{whole.null_count} values are null")
    if pa.types.is_string(whole.type) or pa.types.is_boolean(whole.type):
        kind = object if pa.types.is_string(whole.type) else np.bool_
        return np.array(whole.to_pylist(), dtype=kind)
    values: npt.NDArray[Any] = np.from_dlpack(whole)
    return values
