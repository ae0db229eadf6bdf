"""Pandera schemas, checked by SQL in DuckDB.

Pandera's `Column(unique=True)` lets duplicates through on Ibis tables and `coerce` does nothing there, so
uniqueness is a schema-level rule and types are compared as they are.
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

_SHOWN_FAILURES = 5


def holds(name: str, rule: Any) -> pa.Check:
    return pa.Check(lambda data: rule(data.table[data.key]), name=name)


def compares(name: str, rule: Any) -> pa.Check:
    return pa.Check(lambda data: rule(data.table), name=name)


def validate(connection: duckdb.DuckDBPyConnection, schemas: Mapping[str, pa.DataFrameSchema]) -> None:
    """Check tables by their schemas, all of them before raising."""
    found = []
    backend = ibis.duckdb.from_connection(connection)
    for table, schema in schemas.items():
        for part in (schema, *schema.columns.values()):
            for check in part.checks:
                check.n_failure_cases = _SHOWN_FAILURES
        try:
            schema.validate(backend.table(table), lazy=True)
        except SchemaErrors as errors:
            found.append(f"table {table} breaks its schema:")
            found += [f"  {error['check']}: {error['error']}" for kind in _groups(errors) for error in kind]
    if found:
        raise TapestryError("\n".join(found))


def _groups(errors: SchemaErrors) -> list[list[dict[str, Any]]]:
    return [rows for part in json.loads(str(errors)).values() for rows in part.values()]
