"""Pandera says what of its schema a table breaks, with examples.

Pandera reads DuckDB's tables as Ibis expressions, and our rules are SQL. So it gets a view of the table with one more
column for each broken rule: whether the row keeps it. On Ibis tables it ignores `Column(unique=True)` and `coerce`. So
uniqueness is stated at the level of the table, and a column must already have the type that the schema states.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import duckdb
import ibis
import pandera.ibis as pa
from ibis.backends.sql.datatypes import DuckDBType
from pandera.errors import SchemaErrors

from tapestry.tables.schema import TableSchema

_EXAMPLES = 5
_VIEW = "with_broken_rules"


def explain(
    connection: duckdb.DuckDBPyConnection, table: str, schema: TableSchema, broken: Mapping[str, str]
) -> list[str]:
    """Return what Pandera finds broken in a table, a line each.

    Args:
        broken: the rules that the table breaks: name → condition. Pandera finds by itself what is wrong with columns,
            and what isn't unique.
    """
    kept = "".join(f', ({condition}) AS "{name}"' for name, condition in broken.items())
    connection.execute(f'CREATE OR REPLACE TEMP VIEW {_VIEW} AS SELECT *{kept} FROM "{table}"')
    columns = {name: pa.Column(_ibis_type(column.type), nullable=True) for name, column in schema.columns.items()}
    columns |= {name: pa.Column(None, nullable=True) for name in broken}
    checks = [pa.Check(_column(name), name=name, n_failure_cases=_EXAMPLES) for name in broken]
    unique = list(schema.unique) or None
    whole = pa.DataFrameSchema(columns, checks=checks, unique=unique, strict=schema.strict, name=table)
    try:
        whole.validate(ibis.duckdb.from_connection(connection).table(_VIEW), lazy=True)
    except SchemaErrors as errors:
        return [f"{error['check']}: {error['error']}" for kind in _groups(errors) for error in kind]
    raise AssertionError(f"table {table}: Pandera finds nothing broken")


def _ibis_type(duckdb_type: str | None) -> Any:
    return None if duckdb_type is None else DuckDBType.from_string(duckdb_type)


def _column(name: str) -> Any:
    return lambda data: data.table[name]


def _groups(errors: SchemaErrors) -> list[list[dict[str, Any]]]:
    return [rows for part in json.loads(str(errors)).values() for rows in part.values()]
