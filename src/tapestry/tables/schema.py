"""Validate DuckDB tables by Pandera schemas. Pandera turns each check into SQL, through Ibis.

Pandera makes a query for each check, and reads the table anew for each. So all its checks are first put into one query.
Only if that finds a broken rule, Pandera validates the table itself, which says what is broken, with examples.

On Ibis tables Pandera ignores `Column(unique=True)` and `coerce`. So schemas state uniqueness at the level of the table
(`DataFrameSchema(unique=…)`), and a column must already have the type that the schema states.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import ibis
import pandera.ibis as pa
from pandera.api.ibis.types import IbisData
from pandera.errors import SchemaErrors

from tapestry.core.errors import TapestryError

_EXAMPLES = 5


def column_check(name: str, rule: Any) -> pa.Check:
    """Return a check of one column. `rule` takes the column and returns a boolean for each row."""
    return pa.Check(lambda data: rule(data.table[data.key]), name=name)


def at_least(least: float) -> pa.Check:
    """Return a check that a column's values aren't below a bound.

    Pandera's own checks return tables, which it joins to the column row by row; these return a column.
    """
    return column_check(f"at least {least}", lambda column: column >= least)


def in_range(first: float, last: float) -> pa.Check:
    """Return a check that a column's values are between two bounds, or equal to one."""
    return column_check(f"from {first} to {last}", lambda column: column.between(first, last))


def one_of(values: Sequence[Any]) -> pa.Check:
    """Return a check that a column has no other values than these."""
    return column_check(f"one of {', '.join(map(str, values))}", lambda column: column.isin(values))


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
    for name, schema in schemas.items():
        table = backend.table(name)
        if keeps_all_rules(table, schema):
            continue
        for part in (schema, *schema.columns.values()):
            for check in part.checks:
                check.n_failure_cases = _EXAMPLES
        try:
            schema.validate(table, lazy=True)
        except SchemaErrors as errors:
            found.append(f"table {name} breaks its schema:")
            found += [f"  {error['check']}: {error['error']}" for kind in _groups(errors) for error in kind]
    if found:
        raise TapestryError("\n".join(found))


def keeps_all_rules(table: ibis.Table, schema: pa.DataFrameSchema) -> bool:
    """Say whether a table surely keeps all rules of a schema, by one query, and one more if it has unique columns.

    If not, Pandera decides: it also knows what to make of a table without rows.
    """
    try:
        _without_rules(table, schema).validate(table, lazy=True)
    except SchemaErrors:
        return False
    rules = [(~table[name].isnull()).all() for name, column in schema.columns.items() if not column.nullable]
    rules += [_kept(table, name, check) for name, column in schema.columns.items() for check in column.checks]
    rules += [_kept(table, None, check) for check in schema.checks]
    (values,) = (
        table.aggregate(**{f"rule_{number}": rule for number, rule in enumerate(rules)}).to_pyarrow().to_pylist()
    )
    return all(value is True for value in values.values())


def _without_rules(table: ibis.Table, schema: pa.DataFrameSchema) -> pa.DataFrameSchema:
    """Return a schema of the columns, their types, and unique columns. Its columns may be null.

    A column of floats keeps its rule, since Pandera takes NaN for null.
    """
    floats = {name for name, kind in table.schema().items() if kind.is_floating()}
    columns = {
        name: pa.Column(column.dtype, nullable=column.nullable or name not in floats)
        for name, column in schema.columns.items()
    }
    return pa.DataFrameSchema(columns, strict=bool(schema.strict), unique=schema.unique)


def _kept(table: ibis.Table, column: str | None, check: pa.Check) -> Any:
    """Return the expression by which Pandera decides a check, with the whole table in place of the column alone.

    Expressions of one table go into one query.
    """
    backend: Any = check.get_backend(table)(check)
    data = IbisData(table, column)
    return backend.postprocess(data, backend.apply(data)).check_passed


def _groups(errors: SchemaErrors) -> list[list[dict[str, Any]]]:
    return [rows for part in json.loads(str(errors)).values() for rows in part.values()]
