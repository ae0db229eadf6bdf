"""A table is accepted by our query exactly if Pandera alone accepts it, and Pandera says what is broken."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import duckdb
import ibis
import ibis.expr.datatypes as dt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandera.errors import SchemaErrors

from tapestry.core.errors import TapestryError
from tapestry.tables.broken_rules import pandera_schema
from tapestry.tables.schema import Column, Rule, TableSchema, at_least, in_range, keeps_all_rules, one_of, validate

SCHEMA = TableSchema(
    {
        "number": Column(dt.int32, [at_least(0)]),
        "maybe": Column(dt.int64, [in_range(1, 3), one_of([1, 3])], nullable=True),
        "share": Column(dt.float64, [in_range(0.5, 2)]),
        "name": Column(dt.string, [Rule("not blank", lambda column: column.re_search(r"\S"))]),
    },
    rules=[Rule("number before maybe", lambda table: (table.number < table.maybe).fill_null(True))],
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
@given(rows=st.lists(row, max_size=3), good=st.integers(0, 2))
def test_our_query_accepts_what_pandera_accepts(rows: list[tuple[Any, ...]], good: int) -> None:
    rows += [(*GOOD[:3], f"good {number}") for number in range(good)]
    with duckdb.connect() as connection:
        table = made(connection, rows)
        kept = keeps_all_rules(connection, table, SCHEMA)
        try:
            pandera_schema(SCHEMA).validate(table, lazy=True)
            accepted = True
        except SchemaErrors:
            accepted = False
        assert accepted or not kept
        if good:  # SQL can't say of no values whether all keep a rule; Pandera can
            assert kept == accepted
        if accepted:
            validate(connection, {"made": SCHEMA})
        else:
            with pytest.raises(TapestryError, match="table made breaks its schema"):
                validate(connection, {"made": SCHEMA})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE made SET number = -7", "failure cases: {'number': -7}"),
        ("UPDATE made SET maybe = 2", "failure cases: {'maybe': 2}"),
        ("UPDATE made SET share = 'NaN'", "column 'share' contains null values"),
        ("UPDATE made SET name = ' '", "failure cases: {'name': ' '}"),
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


def test_a_column_without_values_keeps_its_rules_but_no_rows_are_for_pandera_to_judge() -> None:
    with duckdb.connect() as connection:
        table = made(connection, [NO_VALUE])
        assert keeps_all_rules(connection, table, SCHEMA)
        pandera_schema(SCHEMA).validate(table, lazy=True)
        connection.execute("DELETE FROM made")
        assert not keeps_all_rules(connection, table, SCHEMA)


def test_a_valid_table_needs_neither_pandera_nor_pandas() -> None:
    code = """
import sys, duckdb
from tapestry.tables.schema import Column, TableSchema, at_least, validate
with duckdb.connect() as connection:
    connection.execute("CREATE TABLE made AS SELECT 1 AS number")
    validate(connection, {"made": TableSchema({"number": Column(None, [at_least(0)])}, unique=["number"])})
print(sorted({"pandera", "pandas"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
