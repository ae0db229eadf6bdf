"""Columns are those that pyarrow itself makes, and come back as they were, without pandas."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.core import arrow


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_integers_are_those_of_pyarrow(values: list[int]) -> None:
    column = arrow.integers(np.array(values, dtype=np.int64))
    assert column.equals(pa.array(values, pa.int64()))
    assert arrow.to_numpy(pa.chunked_array([column])).tolist() == values


def test_integers_need_not_be_contiguous_nor_int64() -> None:
    assert arrow.integers(np.arange(10, dtype=np.int64)[::3]).to_pylist() == [0, 3, 6, 9]
    assert arrow.integers(np.arange(3, dtype=np.int32)).to_pylist() == [0, 1, 2]


@given(st.lists(st.booleans()))
def test_booleans_are_those_of_pyarrow(values: list[bool]) -> None:
    column = arrow.booleans(np.array(values, dtype=bool))
    assert column.equals(pa.array(values, pa.bool_()))
    found = arrow.to_numpy(pa.chunked_array([column]))
    assert found.dtype == np.bool_
    assert found.tolist() == values


@given(st.lists(st.text(max_size=5)))
def test_texts_are_those_of_pyarrow(values: list[str]) -> None:
    column = arrow.texts(np.array(values, dtype=object))
    assert column.equals(pa.array(values, pa.string()))
    found = arrow.to_numpy(pa.chunked_array([column]))
    assert found.dtype == object
    assert found.tolist() == values


def test_texts_beyond_two_gigabytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "_MOST_TEXT", 3)
    assert arrow.texts(["ab", "c"]).to_pylist() == ["ab", "c"]
    with pytest.raises(OverflowError, match="4 bytes"):
        arrow.texts(["ab", "cd"])


@pytest.mark.parametrize("column", [pa.array([1, None]), pa.array(["a", None]), pa.array([True, None])])
def test_nulls_are_refused(column: pa.Array) -> None:
    with pytest.raises(TypeError, match="1 values are null"):
        arrow.to_numpy(pa.chunked_array([column]))


def test_several_chunks_become_one_array() -> None:
    assert arrow.to_numpy(pa.chunked_array([[1, 2], [3]], pa.int32())).tolist() == [1, 2, 3]


def test_pandas_is_not_loaded() -> None:
    code = """
import sys, numpy as np, pyarrow as pa
from tapestry.core.arrow import booleans, integers, texts, to_numpy
columns = {"a": integers(np.arange(2)), "b": booleans(np.array([True, False])), "c": texts(["x", "y"])}
table = pa.table(columns)
print([to_numpy(table[name]).tolist() for name in columns], "pandas" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[[0, 1], [True, False], ['x', 'y']] False"
