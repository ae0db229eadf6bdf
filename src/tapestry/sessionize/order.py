"""The order of each user's interactions: which are the most recent ones, their positions and their split."""

from __future__ import annotations

from tapestry.core.errors import TapestryError, shown
from tapestry.core.splits import NAMES, TEST, TRAIN, VALIDATION
from tapestry.sessionize.engine import Engine
from tapestry.sessionize.periods import PeriodStarts
from tapestry.sessionize.settings import SessionizeSettings

_FEWEST_OF_DOMAIN = 3  # training, validation and test


def extra_columns(settings: SessionizeSettings) -> list[str]:
    """Return the columns of the table `rows` beside user, item, domain and timestamp, as far as the order needs them.

    `row` is of the raw file, `given_position` and `given_split` are its columns `position` and `split`.
    """
    wanted = {
        "row": settings.ties == "row",
        "given_position": settings.order == "given",
        "given_split": settings.split == "given",
    }
    return [name for name, is_wanted in wanted.items() if is_wanted]


def keep_most_recent(engine: Engine, domains: list[str], settings: SessionizeSettings) -> None:
    """Keep the most recent `max_length` interactions of each user, for rules that follow."""
    _order(engine, domains, settings, None)
    columns = ", ".join(["user", "item", "domain", "timestamp", *extra_columns(settings)])
    engine.table("rows", f"SELECT {columns} FROM in_order WHERE {_recent(settings)}")


def give_positions(engine: Engine, domains: list[str], settings: SessionizeSettings, starts: PeriodStarts) -> None:
    """Keep the most recent `max_length` interactions of each user, and give each its position and split.

    The temporal split counts the training period only, and keeps all later interactions.
    """
    _order(engine, domains, settings, starts)
    if settings.split == "given":
        split = "given_split"
    elif settings.split == "leave_one_out_by_domain":
        of_domain = "PARTITION BY user, domain"
        split = f"""CASE WHEN count(*) OVER ({of_domain}) < {_FEWEST_OF_DOMAIN} THEN {TRAIN} ELSE
            CASE row_number() OVER ({of_domain} ORDER BY time_rank DESC) WHEN 1 THEN {TEST} WHEN 2 THEN {VALIDATION}
            ELSE {TRAIN} END END"""
    elif starts:
        validation, test = (f"WHEN timestamp >= {start} THEN" for start in starts)
        split = f"CASE {test} {TEST} {validation} {VALIDATION} ELSE {TRAIN} END"
    else:
        split = f"CASE length - time_rank WHEN 1 THEN {TEST} WHEN 2 THEN {VALIDATION} ELSE {TRAIN} END"
    engine.table(
        "rows",
        f"""SELECT user, item, domain, timestamp, CAST({split} AS TINYINT) AS split,
            CAST(time_rank - greatest(0, length - {settings.max_length}) AS INTEGER) AS position
        FROM in_order WHERE {_recent(settings)}""",
    )


def _recent(settings: SessionizeSettings) -> str:
    return f"time_rank >= length - {settings.max_length}"


def _order(engine: Engine, domains: list[str], settings: SessionizeSettings, starts: PeriodStarts) -> None:
    """Create the view `in_order`: `rows` with `time_rank`, an interaction's place in its user's order, and `length`.

    The order is that of the timestamps, or the given one. Interactions of a user with one timestamp are tied. A given
    split orders them first, then a hash of seed, user_id and item_id, or the row of the raw file and then the hash.
    Only tied rows are hashed and sorted again. `length` counts the interactions of the user; the temporal split counts
    those of the training period.

    Example: timestamps 10, 20, 20, 30 have `time_rank` 0, 1, 1, 3. The hash orders the two tied rows: 0, 1, 2, 3.
    """
    counted = f"sum(CASE WHEN timestamp < {starts[0]} THEN 1 ELSE 0 END)" if starts else "count(*)"
    time = ["given_position"] if settings.order == "given" else ["timestamp"]
    time += ["given_split"] if settings.order == "time" and settings.split == "given" else []

    def same_as(neighbour: str) -> str:
        return f"coalesce({' AND '.join(f'{column} = {neighbour}({column}) OVER by_time' for column in time)}, false)"

    engine.table(
        "ranked",
        # lag and lead find ties: a count over the rows of equal timestamps needs memory that DuckDB can't spill
        f"""SELECT *, CAST(rank() OVER by_time - 1 AS INTEGER) AS time_rank,
            CAST({counted} OVER (PARTITION BY user) AS INTEGER) AS length,
            {same_as("lag")} OR {same_as("lead")} AS in_tie
        FROM rows WINDOW by_time AS (PARTITION BY user ORDER BY {", ".join(time)})""",
    )
    extra = "".join(f", {column}" for column in extra_columns(settings))
    tie_order = "row, tie_hash" if settings.ties == "row" else "tie_hash"
    engine.table(  # a step of its own: joined with the next one it needs memory that DuckDB can't spill
        "tied",
        f"""SELECT user, item, ranked.domain, timestamp{extra}, time_rank, length,
            md5(concat_ws(chr(31), '{settings.seed}', user_id, item_id{_domain_name(domains, settings)})) AS tie_hash
        FROM ranked JOIN user_ids USING (user) JOIN item_ids USING (item) WHERE in_tie""",
    )
    columns = f"user, item, domain, timestamp{extra}, length"
    engine.view(
        "in_order",
        f"""SELECT {columns}, time_rank FROM ranked WHERE NOT in_tie
        UNION ALL
        SELECT {columns},
            time_rank + row_number() OVER (PARTITION BY user, {", ".join(time)} ORDER BY {tie_order}) - 1 AS time_rank
        FROM tied""",
    )


def _domain_name(domains: list[str], settings: SessionizeSettings) -> str:
    """SQL for the domain's name as part of the tie hash, where an item is named by its item_id and its domain.

    Without it, two tied items with one item_id in two domains would have the same hash, and no defined order.
    """
    if settings.item_identity == "global":
        return ""
    names = " ".join(f"WHEN {index} THEN '{domain}'" for index, domain in enumerate(domains))
    return f", CASE ranked.domain {names} END"


def require_given_order(engine: Engine, settings: SessionizeSettings) -> None:
    """Check that no two interactions of a user have one given position.

    Raises:
        TapestryError: two have; the message names one user and position.
    """
    if settings.order != "given":
        return
    repeated = engine.fetch(
        """SELECT user_id, given_position, interactions FROM (
            SELECT user, given_position, count(*) AS interactions FROM rows GROUP BY user, given_position
            HAVING count(*) > 1
        ) AS repeated JOIN user_ids USING (user) ORDER BY user_id, given_position LIMIT 1"""
    )
    for user_id, position, interactions in repeated:
        raise TapestryError(
            f"sessionize: order: given needs positions that differ within a user, over all domains; user_id "
            f"{shown(user_id)} has {interactions} interactions at position {position}: mend the column position of the "
            "raw files, or set sessionize.order to time"
        )


def require_given_split(engine: Engine) -> None:
    """Check that a user's test interactions come after those of validation, and these after training.

    Raises:
        TapestryError: one comes before; the message names the user, the position and the splits.
    """
    wrong = engine.fetch(
        """SELECT user_id, position, split, previous FROM (
            SELECT user, position, split, lag(split) OVER (PARTITION BY user ORDER BY position) AS previous FROM rows
        ) AS neighbours JOIN user_ids USING (user) WHERE split < previous ORDER BY user_id, position LIMIT 1"""
    )
    for user_id, position, split, previous in wrong:
        raise TapestryError(
            f"sessionize: split: given needs the training interactions of a user before those of validation, and these "
            f"before those of test; user_id {shown(user_id)} has one of {NAMES[split]} at position {position}, "
            f"after one of {NAMES[previous]}: mend the column split of the raw files, or set sessionize.order"
        )
