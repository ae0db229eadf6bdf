"""Our queries accept a table exactly if Pandera does, by a schema of its own; Pandera says what is broken."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import duckdb
import ibis
import ibis.expr.datatypes as dt
import pandera.ibis as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandera.errors import SchemaErrors

from tapestry.core.errors import TapestryError
from tapestry.tables.schema import Column, Rule, TableSchema, at_least, in_range, not_blank, one_of, validate

SCHEMA = TableSchema(
    {
        "number": Column("INTEGER", [at_least(0)]),
        "maybe": Column("BIGINT", [in_range(1, 3), one_of([1, 3])], nullable=True),
        "share": Column("DOUBLE", [in_range(0.5, 2)]),
        "name": Column("VARCHAR", [not_blank()]),
    },
    rules=[Rule("number before maybe", "number < maybe")],
    unique=["name"],
)
REFERENCE = pa.DataFrameSchema(
    {
        "number": pa.Column(dt.int32, pa.Check.ge(0), nullable=False),
        "maybe": pa.Column(dt.int64, [pa.Check.in_range(1, 3), pa.Check.isin([1, 3])], nullable=True),
        "share": pa.Column(dt.float64, pa.Check.in_range(0.5, 2), nullable=False),
        "name": pa.Column(dt.string, pa.Check(lambda data: data.table.name.re_search(r"\S")), nullable=False),
    },
    checks=pa.Check(lambda data: (data.table.number < data.table.maybe).fill_null(True)),
    unique=["name"],
)
GOOD = (0, 1, 1.0, "a")
NO_VALUE = (0, None, 1.0, "b")
TABLE = 'CREATE TABLE made ("number" INTEGER, maybe BIGINT, share DOUBLE, "name" VARCHAR)'

row = st.tuples(
    st.sampled_from([0, 0, 0, 1, -1, None]),
    st.sampled_from([1, 1, 3, None, 2, 4]),
    st.sampled_from([0.5, 1.0, 2.0, 2.5, None, math.nan]),
    st.sampled_from(["a", "b", "c", "d", " ", None]),
)


def made(connection: duckdb.DuckDBPyConnection, rows: list[tuple[Any, ...]]) -> ibis.Table:
    connection.execute(TABLE)
    for values in rows:
        connection.execute("INSERT INTO made VALUES (?, ?, ?, ?)", values)
    return ibis.duckdb.from_connection(connection).table("made")


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(row, min_size=1, max_size=3), good=st.integers(0, 2))
def test_our_query_accepts_what_pandera_accepts(rows: list[tuple[Any, ...]], good: int) -> None:
    rows += [(*GOOD[:3], f"good {number}") for number in range(good)]
    with duckdb.connect() as connection:
        table = made(connection, rows)
        try:
            REFERENCE.validate(table, lazy=True)
            accepted = True
        except SchemaErrors:
            accepted = False
        if accepted:
            validate(connection, {"made": SCHEMA})
        else:
            with pytest.raises(TapestryError, match="table made breaks its schema"):
                validate(connection, {"made": SCHEMA})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE made SET number = -7", "number at least 0: DataFrameSchema 'made'"),
        ("UPDATE made SET maybe = 2", "failure cases: {'number': 0, 'maybe': 2"),
        ("UPDATE made SET share = 'NaN'", "share not null: "),
        ("UPDATE made SET share = .25", "share from 0.5 to 2: "),
        ("UPDATE made SET name = ' '", "name not blank: "),
        ("UPDATE made SET number = 1, maybe = 1", "number before maybe"),
        ("INSERT INTO made SELECT * FROM made", "'('name',)' not unique"),
        ("ALTER TABLE made DROP share", "share"),
        ("ALTER TABLE made ALTER number TYPE BIGINT", "expected column 'number' to have type int32"),
    ],
)
def test_what_is_broken_is_named(change: str, message: str) -> None:
    with duckdb.connect() as connection:
        made(connection, [GOOD])
        validate(connection, {"made": SCHEMA})
        connection.execute(change)
        with pytest.raises(TapestryError, match="table made breaks its schema") as caught:
            validate(connection, {"made": SCHEMA})
    assert message in str(caught.value)


@pytest.mark.parametrize("change", ["ALTER TABLE made ADD other INTEGER", "ALTER TABLE made DROP name"])
def test_a_strict_schema_has_all_columns_of_the_table(change: str) -> None:
    strict = TableSchema({name: Column() for name in SCHEMA.columns}, strict=True)
    with duckdb.connect() as connection:
        made(connection, [GOOD])
        validate(connection, {"made": strict})
        connection.execute(change)
        with pytest.raises(TapestryError, match="table made breaks its schema"):
            validate(connection, {"made": strict})


@pytest.mark.parametrize("rows", [[NO_VALUE], []])
def test_where_there_is_no_value_all_rules_are_kept(rows: list[tuple[Any, ...]]) -> None:
    with duckdb.connect() as connection:
        made(connection, rows)
        validate(connection, {"made": SCHEMA})


def test_a_missing_column_is_named_alone() -> None:
    with duckdb.connect() as connection:
        made(connection, [GOOD])
        connection.execute("ALTER TABLE made DROP maybe")  # which a rule of the table needs
        with pytest.raises(TapestryError) as caught:
            validate(connection, {"made": SCHEMA})
    assert str(caught.value).splitlines()[1:] == [
        "  column_in_dataframe: column 'maybe' not found. Columns in table: ('number', 'share', 'name')"
    ]


def test_bounds_of_a_float_are_compared_as_doubles() -> None:
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE made AS SELECT 4.7::FLOAT AS rating")
        validate(connection, {"made": TableSchema({"rating": Column("FLOAT", [in_range(1, 4.7)])})})
        with pytest.raises(TapestryError, match=r"from 4\.7 to 5"):  # 4.7 as a FLOAT is 4.69999981
            validate(connection, {"made": TableSchema({"rating": Column("FLOAT", [in_range(4.7, 5)])})})


def test_a_valid_table_needs_neither_pandera_nor_ibis_nor_pandas() -> None:
    code = """
import sys, duckdb
from tapestry.tables.schema import Column, TableSchema, at_least, validate
with duckdb.connect() as connection:
    connection.execute("CREATE TABLE made AS SELECT 1 AS number")
    validate(connection, {"made": TableSchema({"number": Column(None, [at_least(0)])}, unique=["number"])})
print(sorted({"pandera", "ibis", "pandas"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
