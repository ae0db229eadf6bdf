"""Validate DuckDB tables by Pandera schemas. Pandera turns each check into SQL, through Ibis.

On Ibis tables Pandera ignores `Column(unique=True)` and `coerce`. So schemas state uniqueness at the level of the table
(`DataFrameSchema(unique=…)`), and a column must already have the type that the schema states.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import duckdb
import ibis
import pandera.ibis as pa
from pandera.errors import SchemaErrors

from tapestry.core.errors import TapestryError

_EXAMPLES = 5


def column_check(name: str, rule: Any) -> pa.Check:
    """Return a check of one column. `rule` takes the column and returns a boolean for each row."""
    return pa.Check(lambda data: rule(data.table[data.key]), name=name)


def table_check(name: str, rule: Any) -> pa.Check:
    """Return a check that reads several columns. `rule` takes the table and returns a boolean for each row."""
    return pa.Check(lambda data: rule(data.table), name=name)


def validate(connection: duckdb.DuckDBPyConnection, schemas: Mapping[str, pa.DataFrameSchema]) -> None:
    """Validate each table by its schema.

    Raises:
        TapestryError: The message lists every broken rule of every table, with up to five examples.
    """
    found = []
    backend = ibis.duckdb.from_connection(connection)
    for table, schema in schemas.items():
        for part in (schema, *schema.columns.values()):
            for check in part.checks:
                check.n_failure_cases = _EXAMPLES
        try:
            schema.validate(backend.table(table), lazy=True)
        except SchemaErrors as errors:
            found.append(f"table {table} breaks its schema:")
            found += [f"  {error['check']}: {error['error']}" for kind in _groups(errors) for error in kind]
    if found:
        raise TapestryError("\n".join(found))


def _groups(errors: SchemaErrors) -> list[list[dict[str, Any]]]:
    return [rows for part in json.loads(str(errors)).values() for rows in part.values()]
