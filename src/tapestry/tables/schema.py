"""Schemas of DuckDB tables: columns with their types, and rules, which are conditions in SQL.

One query says which rules a table breaks, a second one whether values that must be unique are. Only if something is
broken, Pandera validates the table and says what, with examples (`tapestry.tables.broken_rules`). To load Pandera and
Ibis, of which its tables are, takes longer than to check a small table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb

from tapestry.core.errors import TapestryError
from tapestry.tables.database import quote

_COLUMN = "{column}"


@dataclass(frozen=True)
class Rule:
    """A rule of a table's rows.

    Attributes:
        name: of the rule, in messages.
        condition: SQL that is true for each row that keeps the rule, and false for each that breaks it. A row for which
            it is null keeps the rule. In a rule of a column, `{column}` is the column.
    """

    name: str
    condition: str


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        type: of its values, as DuckDB calls it; any if None.
        rules: of its values.
        nullable: whether values may be null. If not, a float may not be NaN either.
    """

    type: str | None = None
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


def at_least(least: int) -> Rule:
    """Return the rule that a column's values aren't below a bound."""
    return Rule(f"at least {least}", f"{_COLUMN} >= {least}")


def in_range(first: float, last: float) -> Rule:
    """Return the rule that a column's values are between two bounds, or equal to one."""
    return Rule(f"from {first} to {last}", f"{_COLUMN} BETWEEN {_number(first)} AND {_number(last)}")


def one_of(values: Sequence[int | str]) -> Rule:
    """Return the rule that a column has no other values than these."""
    listed = (f"'{quote(value)}'" if isinstance(value, str) else str(value) for value in values)
    return Rule(f"one of {', '.join(map(str, values))}", f"{_COLUMN} IN ({', '.join(listed)})")


def not_blank() -> Rule:
    """Return the rule that a text has something else than blanks."""
    return Rule("not blank", rf"regexp_matches({_COLUMN}, '\S')")


def validate(connection: duckdb.DuckDBPyConnection, schemas: Mapping[str, TableSchema]) -> None:
    """Validate each table or view by its schema.

    Raises:
        TapestryError: The message lists every broken rule of every table, with up to five examples.
    """
    found = []
    for name, schema in schemas.items():
        # A rule of a column that is missing, or has another type, says nothing.
        fits = _has_columns(connection, name, schema)
        broken = _broken_rules(connection, name, schema) if fits else {}
        if not fits or broken or not _is_unique(connection, name, schema.unique):
            from tapestry.tables.broken_rules import explain

            lines = explain(connection, name, schema, broken)
            found += [f"table {name} breaks its schema:", *(f"  {line}" for line in lines)]
    if found:
        raise TapestryError("\n".join(found))


def _has_columns(connection: duckdb.DuckDBPyConnection, table: str, schema: TableSchema) -> bool:
    """Say whether a table has a schema's columns, of the right types, and no others if it is strict."""
    types = {name: kind for name, kind, *_ in connection.execute(f'DESCRIBE "{table}"').fetchall()}
    if schema.strict and types.keys() != schema.columns.keys():
        return False
    return all(name in types and column.type in (None, types[name]) for name, column in schema.columns.items())


def _broken_rules(connection: duckdb.DuckDBPyConnection, table: str, schema: TableSchema) -> dict[str, str]:
    """Return the rules that some rows of a table with the right columns break: name → condition."""
    rules = {
        f"{name} {rule.name}": rule.condition.replace(_COLUMN, f'"{name}"')
        for name, column in schema.columns.items()
        for rule in [*column.rules, *_never_null(column)]
    }
    rules |= {rule.name: rule.condition for rule in schema.rules}
    if not rules:
        return {}
    broken = [f"NOT ({condition})" for condition in rules.values()]
    # One aggregate takes half the time of one for each rule. It is null if no rule is broken and one is null for a row.
    ((any_broken,),) = connection.execute(f'SELECT bool_or({" OR ".join(broken)}) FROM "{table}"').fetchall()
    if not any_broken:
        return {}
    (found,) = connection.execute(
        f'SELECT {", ".join(f"bool_or({rule})" for rule in broken)} FROM "{table}"'
    ).fetchall()
    return {name: condition for (name, condition), is_broken in zip(rules.items(), found, strict=True) if is_broken}


def _never_null(column: Column) -> list[Rule]:
    if column.nullable:
        return []
    number = f" AND NOT isnan({_COLUMN})" if column.type in ("FLOAT", "DOUBLE") else ""
    return [Rule("not null", f"{_COLUMN} IS NOT NULL{number}")]


def _is_unique(connection: duckdb.DuckDBPyConnection, table: str, columns: Sequence[str]) -> bool:
    """Say whether no two rows have the same values in these columns; null is a value like others."""
    if not columns:
        return True
    keys = ", ".join(f'"{column}"' for column in columns)
    return not connection.execute(f'SELECT 1 FROM "{table}" GROUP BY {keys} HAVING count(*) > 1 LIMIT 1').fetchall()


def _number(value: float) -> str:
    # A literal such as 4.7 is a DECIMAL, which DuckDB would round to FLOAT to compare it with one.
    return str(value) if isinstance(value, int) else f"CAST({value!r} AS DOUBLE)"
