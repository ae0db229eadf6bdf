"""Pandera says which rules of its schema a table breaks, with examples.

On Ibis tables Pandera ignores `Column(unique=True)` and `coerce`. So uniqueness is stated at the level of the table,
and a column must already have the type that the schema states.
"""

from __future__ import annotations

import json
from typing import Any

import ibis
import pandera.ibis as pa
from pandera.errors import SchemaErrors

from tapestry.tables.schema import Rule, TableSchema

_EXAMPLES = 5


def broken_rules(table: ibis.Table, schema: TableSchema) -> list[str]:
    """Return what Pandera finds broken in a table, a line each; nothing if it finds the table valid."""
    try:
        pandera_schema(schema).validate(table, lazy=True)
    except SchemaErrors as errors:
        return [f"{error['check']}: {error['error']}" for kind in _groups(errors) for error in kind]
    return []


def pandera_schema(schema: TableSchema) -> pa.DataFrameSchema:
    """Return the same schema as one of Pandera."""
    columns = {
        name: pa.Column(column.type, [_of_column(rule) for rule in column.rules], nullable=column.nullable)
        for name, column in schema.columns.items()
    }
    rules = [_of_table(rule) for rule in schema.rules]
    return pa.DataFrameSchema(columns, checks=rules, unique=list(schema.unique) or None, strict=schema.strict)


def _of_column(rule: Rule) -> pa.Check:
    return pa.Check(lambda data: rule.keeps(data.table[data.key]), name=rule.name, n_failure_cases=_EXAMPLES)


def _of_table(rule: Rule) -> pa.Check:
    return pa.Check(lambda data: rule.keeps(data.table), name=rule.name, n_failure_cases=_EXAMPLES)


def _groups(errors: SchemaErrors) -> list[list[dict[str, Any]]]:
    return [rows for part in json.loads(str(errors)).values() for rows in part.values()]
