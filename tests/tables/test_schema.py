"""A table is accepted by one query exactly if Pandera alone accepts it, and Pandera says what is broken."""

from __future__ import annotations

import math
from collections.abc import Callable
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
from tapestry.tables.schema import at_least, column_check, in_range, keeps_all_rules, one_of, table_check, validate

SCHEMA = pa.DataFrameSchema(
    {
        "number": pa.Column(dt.Int32, at_least(0)),
        "maybe": pa.Column(dt.Int64, [in_range(1, 3), one_of([1, 3])], nullable=True),
        "share": pa.Column(dt.Float64, in_range(0.5, 2)),
        "name": pa.Column(dt.String, column_check("not blank", lambda column: column.re_search(r"\S"))),
    },
    checks=[table_check("number before maybe", lambda table: (table.number < table.maybe).fill_null(True))],
    unique=["name"],
)
GOOD = (0, 1, 1.0, "a")
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
def test_one_query_accepts_what_pandera_accepts(rows: list[tuple[Any, ...]], good: int) -> None:
    rows += [(*GOOD[:3], f"good {number}") for number in range(good)]
    with duckdb.connect() as connection:
        table = made(connection, rows)
        kept = keeps_all_rules(table, SCHEMA)
        try:
            SCHEMA.validate(table, lazy=True)
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


def test_valid_tables_take_two_queries_of_pandera_instead_of_one_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = type(ibis.duckdb.connect())
    asked: list[str] = []

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, expression: Any, *arguments: Any, **options: Any) -> Any:
            asked.append(str(type(expression)))
            return original(self, expression, *arguments, **options)

        return call

    for name in ("execute", "to_pyarrow"):
        monkeypatch.setattr(backend, name, counted(getattr(backend, name)))
    with duckdb.connect() as connection:
        made(connection, [GOOD])
        validate(connection, {"made": SCHEMA})
    assert len(asked) <= 3  # of the unique column, of NaN, and of all rules
