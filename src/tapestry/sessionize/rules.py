"""The filter rules that turn interactions into sequences: one SQL text, which DuckDB and Spark run unchanged.

The SQL uses only constructs that both engines have, with the same meaning in both. Nothing is translated between SQL
dialects, so a construct that one engine lacks is an error and never a silent difference.

The user_id and item_id texts are replaced by integers at the start, because the rules join and group by them many
times. No window function runs over all rows: on a Spark cluster a single node would have to do that work.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tapestry.core.errors import TapestryError
from tapestry.core.splits import NAMES, TEST, VALIDATION
from tapestry.sessionize.diagnosis import UnfilteredRows, empty_domains_error, missing_target_error
from tapestry.sessionize.engine import Engine
from tapestry.sessionize.k_core import users_with_enough
from tapestry.sessionize.order import extra_columns, require_given_order, require_given_split
from tapestry.sessionize.owners import CONTESTED, RowsByDomain, contested_rows, require_few_contested
from tapestry.sessionize.periods import PeriodStarts, period_starts
from tapestry.sessionize.rule_order import TOO_FEW, TOO_OLD, rules_in_order
from tapestry.sessionize.settings import SessionizeSettings

_GIVEN_COLUMNS = {"given_position": "position", "given_split": "split"}
"""Columns of the table `rows` → columns of the interactions, which ingest takes from the raw files."""


def apply_rules(
    engine: Engine, interactions: Mapping[str, Path], settings: SessionizeSettings
) -> dict[str, RowsByDomain]:
    """Filter, order and split the interactions; `tapestry.sessionize.sessionize` describes the rules.

    Creates the tables `rows` (user, item, domain, timestamp, split, position), `user_ids` (user_id, user) and
    `item_ids` (item_id, item). The column `user` is an integer that stands for a user_id within this run only:
    `user_ids` translates it back.

    Args:
        interactions: The Parquet file of each domain. Their order is the order of the domain numbers.

    Returns:
        {reason: {domain: interactions filtered}}

    Raises:
        TapestryError: Too many interactions are of items that another domain owns; or after filtering a domain has no
            user, or a split no target. The message lists what each rule filtered and names the parameter to change.
            Or a given order or split is missing, ambiguous or contradicts itself.
    """
    domains = list(interactions)
    _view_interactions(engine, interactions, settings)
    starts = period_starts(engine, settings)
    _number_users_and_items(engine, domains, settings, starts)
    _create_rows(engine, settings)
    require_given_order(engine, settings)
    filtered = {reason: dict.fromkeys(domains, 0) for reason in (CONTESTED, TOO_FEW, TOO_OLD)}
    rows = _rows_by_domain(engine, domains, "loaded")
    for rule in rules_in_order(engine, domains, settings, starts):
        rule.apply()
        if rule.reason == CONTESTED:  # counted by itself: the interactions of other users aren't in `rows`
            filtered[CONTESTED] = contested_rows(engine, domains, settings)
            require_few_contested(rows, filtered[CONTESTED], settings)
            rows = {domain: rows[domain] - filtered[CONTESTED][domain] for domain in domains}
            continue
        before, rows = rows, _rows_by_domain(engine, domains)
        for domain in domains:
            filtered[rule.reason][domain] += before[domain] - rows[domain]
    _require_every_domain(engine, rows, settings, starts)
    if settings.split == "given":
        require_given_split(engine)
    _require_targets(engine, domains, settings, starts)
    return filtered


def _view_interactions(engine: Engine, interactions: Mapping[str, Path], settings: SessionizeSettings) -> None:
    """Create the view `loaded` of all files."""
    extra = extra_columns(settings)
    parts = []
    for index, path in enumerate(interactions.values()):
        engine.view_parquet(f"interactions_{index}", path)
        _require_given_columns(engine, f"interactions_{index}", path, extra)
        columns = ["user_id", "item_id", "timestamp", *(_renamed(column) for column in extra)]
        parts.append(f"SELECT {', '.join(columns)}, CAST({index} AS SMALLINT) AS domain FROM interactions_{index}")
    engine.view("loaded", " UNION ALL ".join(parts))


def _number_users_and_items(
    engine: Engine, domains: list[str], settings: SessionizeSettings, starts: PeriodStarts
) -> None:
    """Create the tables `user_ids` and `item_ids`, which give each user_id and each item an integer.

    `rows` and all tables after it have the integers only. `user_ids` leaves out users whom the k-core removes anyway.
    """
    users = users_with_enough(settings, len(domains), starts)
    engine.table("user_ids", f"SELECT user_id, {engine.unique_integer} AS user FROM ({users}) AS users")
    if settings.item_identity == "domain":
        items = "SELECT DISTINCT item_id, domain FROM loaded"
    else:
        items = "SELECT item_id, min(domain) <> max(domain) AS contested FROM loaded GROUP BY item_id"
    engine.table("item_ids", f"SELECT *, {engine.unique_integer} AS item FROM ({items}) AS items")


def _create_rows(engine: Engine, settings: SessionizeSettings) -> None:
    """Create the table `rows` of the interactions of the users in `user_ids`, with integers for users and items."""
    identity = "item_id, domain" if settings.item_identity == "domain" else "item_id"
    columns = ", ".join(["user", "item", "domain", "timestamp", *extra_columns(settings)])
    engine.table("rows", f"SELECT {columns} FROM loaded JOIN user_ids USING (user_id) JOIN item_ids USING ({identity})")


def _renamed(column: str) -> str:
    given = _GIVEN_COLUMNS.get(column)
    return column if given is None else f"{given} AS {column}"


def _require_given_columns(engine: Engine, view: str, path: Path, extra: list[str]) -> None:
    """Check that a file of interactions has the given columns that the settings want."""
    wanted = [_GIVEN_COLUMNS[column] for column in extra if column in _GIVEN_COLUMNS]
    names = [name for name, *_ in engine.fetch(f"DESCRIBE {view}")] if wanted else []
    for name in wanted:
        if name not in names:
            parameter = {"position": "order", "split": "split"}[name]
            raise TapestryError(
                f"sessionize.{parameter}: given, but {path} has no column {name}: add {name} to ingest.given_columns, "
                "which takes it from the raw files"
            )


def _require_every_domain(
    engine: Engine, rows: RowsByDomain, settings: SessionizeSettings, starts: PeriodStarts
) -> None:
    empty = [domain for domain, count in rows.items() if count == 0]
    if empty:
        raise empty_domains_error(_load_again(engine, list(rows), settings, starts), empty)


def _require_targets(engine: Engine, domains: list[str], settings: SessionizeSettings, starts: PeriodStarts) -> None:
    present = {split for (split,) in engine.fetch("SELECT DISTINCT split FROM rows WHERE position > 0")}
    for split in (VALIDATION, TEST):
        if split not in present and settings.split != "temporal":
            mend = "mend the column split of the raw files, or " if settings.split == "given" else ""
            raise TapestryError(
                f"sessionize: split: {settings.split}, but no interaction of {NAMES[split]} that has an earlier one of "
                f"its user is left: {mend}loosen the filters of sessionize"
            )
        if split not in present:
            raise missing_target_error(_load_again(engine, domains, settings, starts), NAMES[split])


def _load_again(
    engine: Engine, domains: list[str], settings: SessionizeSettings, starts: PeriodStarts
) -> UnfilteredRows:
    """Restore the table `rows` to the interactions of all users, to find out what each rule filters.

    Users who already have an integer keep it.
    """
    engine.table(
        "user_ids",
        f"""SELECT user_id, user FROM user_ids UNION ALL
        SELECT user_id, -1 - {engine.unique_integer} AS user
        FROM (SELECT DISTINCT user_id FROM loaded ANTI JOIN user_ids USING (user_id)) AS others""",
    )
    _create_rows(engine, settings)
    return UnfilteredRows(engine, domains, settings, starts)


def _rows_by_domain(engine: Engine, domains: list[str], table: str = "rows") -> RowsByDomain:
    counted = dict(engine.fetch(f"SELECT domain, count(*) FROM {table} GROUP BY domain"))
    return {domain: counted.get(index, 0) for index, domain in enumerate(domains)}
