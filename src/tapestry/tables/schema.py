"""Schemas of DuckDB tables: columns with their types, and rules, which are Ibis expressions.

One query says whether a table keeps all rules, a second one whether values that must be unique are. Only if they find
something broken, Pandera validates the table and says what, with examples (`tapestry.tables.broken_rules`). Pandera
makes a query for each rule, and to load it takes longer than to check a small table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import ibis
import ibis.expr.datatypes as dt

from tapestry.core.errors import TapestryError


@dataclass(frozen=True)
class Rule:
    """A rule of a table's rows.

    Attributes:
        name: of the rule, in messages.
        keeps: takes a column, or for a rule of several columns the table, and returns an expression that is true for
            each row that keeps the rule, and false for each that breaks it. A row for which it is null keeps the rule.
    """

    name: str
    keeps: Callable[[Any], Any]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        type: of its values; any if None.
        rules: of its values.
        nullable: whether values may be null. If not, a float may not be NaN either.
    """

    type: dt.DataType | None = None
    rules: Sequence[Rule] = ()
    nullable: bool = False


@dataclass(frozen=True)
class TableSchema:
    """What holds for a table.

    Attributes:
        columns: by name. The table may have others, unless it is `strict`.
        rules: of several columns.
        unique: columns of which no two rows have the same values.
        strict: whether the table may have no other columns.
    """

    columns: Mapping[str, Column]
    rules: Sequence[Rule] = ()
    unique: Sequence[str] = ()
    strict: bool = False


def at_least(least: float) -> Rule:
    """Return the rule that a column's values aren't below a bound."""
    return Rule(f"at least {least}", lambda column: column >= least)


def in_range(first: float, last: float) -> Rule:
    """Return the rule that a column's values are between two bounds, or equal to one."""
    return Rule(f"from {first} to {last}", lambda column: column.between(first, last))


def one_of(values: Sequence[Any]) -> Rule:
    """Return the rule that a column has no other values than these."""
    return Rule(f"one of {', '.join(map(str, values))}", lambda column: column.isin(values))


def validate(connection: duckdb.DuckDBPyConnection, schemas: Mapping[str, TableSchema]) -> None:
    """Validate each table or view by its schema.

    Raises:
        TapestryError: The message lists every broken rule of every table, with up to five examples.
    """
    found = []
    backend = ibis.duckdb.from_connection(connection)
    for name, schema in schemas.items():
        table = backend.table(name)
        if not keeps_all_rules(connection, table, schema):
            from tapestry.tables.broken_rules import broken_rules

            broken = broken_rules(table, schema)
            found += [f"table {name} breaks its schema:", *(f"  {rule}" for rule in broken)] if broken else []
    if found:
        raise TapestryError("\n".join(found))


def keeps_all_rules(connection: duckdb.DuckDBPyConnection, table: ibis.Table, schema: TableSchema) -> bool:
    """Say whether a table surely keeps all rules of a schema. A table without rows is never sure to."""
    types = {name: kind.copy(nullable=True) for name, kind in table.schema().items()}
    if schema.strict and types.keys() != schema.columns.keys():
        return False
    if any(name not in types or column.type not in (None, types[name]) for name, column in schema.columns.items()):
        return False
    rules = [rule.keeps(table[name]) for name, column in schema.columns.items() for rule in column.rules]
    rules += [rule.keeps(table) for rule in schema.rules]
    for name, column in schema.columns.items():
        if not column.nullable:
            rules.append(~table[name].isnull())
            rules += [~table[name].isnan()] if types[name].is_floating() else []
    broken = {f"rule_{number}": (~rule).any() for number, rule in enumerate(rules)}
    ((rows, *found),) = _rows(connection, table.aggregate(table.count().name("rows"), **broken))
    # What is found is null for a rule that is null for all rows, as of a column without values.
    return rows > 0 and not any(found) and (not schema.unique or _is_unique(connection, table, schema.unique))


def _is_unique(connection: duckdb.DuckDBPyConnection, table: ibis.Table, columns: Sequence[str]) -> bool:
    """Say whether no two rows have the same values in these columns; null is a value like others."""
    counted = table.group_by(list(columns)).aggregate(rows_alike=table.count())
    return not _rows(connection, counted.filter(counted.rows_alike > 1).limit(1))


def _rows(connection: duckdb.DuckDBPyConnection, expression: ibis.Table) -> list[tuple[Any, ...]]:
    """Return the rows of an expression. Ibis itself would load pandas for them."""
    return connection.execute(str(ibis.to_sql(expression, dialect="duckdb"))).fetchall()
