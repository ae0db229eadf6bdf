"""One domain's raw file → validated interactions, a quarantine with reasons, and counts that add up.

interactions: user_id, item_id (text, the source's own), timestamp (int64, milliseconds since 1970 UTC),
rating (float32, null where the source has none), domain, row (of the raw file, from 1); ordered by
user_id, timestamp, item_id. The same user, item and timestamp is kept once: its first row.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from tapestry.atomic import write_json
from tapestry.config import IngestConfig
from tapestry.data.database import connect, count_rows, quote, scalar, write_parquet
from tapestry.data.layouts import Layout
from tapestry.data.raw import LONGEST_LINE, RawFile, RowStream
from tapestry.data.schemas import check_interactions
from tapestry.errors import TapestryError

_SHOWN_ROWS = 3
_QUARANTINED_CHARACTERS = 500
_BLANKS = "".join(filter(str.isspace, map(chr, range(0x3001))))  # all that Unicode has


def ingest(
    raw: Path, domain: str, config: IngestConfig, interactions: Path, quarantine: Path, counts: Path
) -> dict[str, Any]:
    """Ingest the raw file `raw` of `domain`; write the two Parquet files and the counts (JSON).

    Returns:
        The counts: rows_in, rows_quarantined, rows_duplicate, interactions, reasons {reason: rows}; with
        rows_in = rows_quarantined + rows_duplicate + interactions.

    Raises:
        TapestryError: an unreadable file, unknown columns, or too large a share of unusable rows.
    """
    file = RawFile.open(raw)
    layout = file.layout()
    with connect(config.memory_limit, config.threads) as connection:
        _classify(connection, file, layout, config)
        summary = _count(connection)
        _check_quarantine_share(connection, file, summary, config.max_quarantine_share)
        _order(connection, domain)
        summary["rows_duplicate"] = scalar(connection, "SELECT count(*) FROM ordered WHERE duplicate")
        write_parquet(
            connection,
            "SELECT * EXCLUDE duplicate FROM ordered WHERE NOT duplicate",
            interactions,
            lambda written: check_interactions(connection, written, domain, config),
        )
        summary["interactions"] = count_rows(interactions)
        write_parquet(
            connection,
            f"""SELECT '{quote(raw.name)}' AS file, row, reason, text FROM classified
            WHERE reason IS NOT NULL ORDER BY row""",
            quarantine,
        )
    parts = summary["rows_quarantined"] + summary["rows_duplicate"] + summary["interactions"]
    if summary["rows_in"] != parts:
        raise AssertionError(f"{raw.name}: {summary['rows_in']} rows in, but {parts} accounted for")
    write_json(counts, {"file": raw.name, **summary})
    return summary


@dataclass(frozen=True)
class _Source:
    """SQL that reads a raw file. `text` and `problem` are of the columns of `query`; a row is parsed once, and its
    text is made for those alone that are quarantined.

    query: row, user, item, timestamp, rating (as text), and what the others need. stream: what it reads as `source`.
    """

    query: str
    text: str
    problem: str
    stream: RowStream | None = None


def _read_json(file: RawFile, layout: Layout) -> _Source:
    paths = ", ".join(f"'$.\"{quote(name)}\"'" for name in (*layout.needed, layout.rating))
    text = "coalesce(TRY(decode(line)), decode(line, 'replace'))"
    return _Source(
        query=f"""
            SELECT row, line, f[1] AS "user", f[2] AS item, f[3] AS "timestamp", f[4] AS rating
            FROM (SELECT *, TRY(json_extract_string(decode(coalesce(json, line)), [{paths}])) AS f FROM source)""",
        text=f"rtrim({text}, '\r\n')",
        problem=f"""CASE
            WHEN octet_length(line) > {LONGEST_LINE} THEN 'longer than {LONGEST_LINE >> 20} MiB'
            WHEN "user" IS NOT NULL AND item IS NOT NULL AND "timestamp" IS NOT NULL THEN NULL
            WHEN TRY(decode(line)) IS NULL THEN 'invalid UTF-8'
            WHEN {_trim(text)} = '' THEN 'blank line'
            WHEN "user" IS NULL AND item IS NULL AND "timestamp" IS NULL
                AND NOT coalesce(TRY(json_type(TRY(decode(line)))) = 'OBJECT', false) THEN 'not a JSON object'
        END""",
        stream=file.read_lines(),
    )


def _read_table(file: RawFile, layout: Layout) -> _Source:
    """CSV or Parquet."""
    names = dict(zip(("user", "item", "timestamp", "rating"), (*layout.needed, layout.rating), strict=True))
    kept = {key: name for key, name in names.items() if name in file.columns}
    fields = ", ".join(
        f'CAST("{names[key]}" AS VARCHAR) AS "{key}"' if key in kept else f'NULL::VARCHAR AS "{key}"' for key in names
    )
    text = " || ',' || ".join(f"coalesce(\"{key}\", '')" for key in kept)
    if file.format == "parquet":
        origin = f"read_parquet('{quote(file.path)}', file_row_number = true)"
        return _Source(f"SELECT file_row_number + 1 AS row, {fields} FROM {origin}", text, "NULL")
    invalid = " OR ".join(f"contains(\"{key}\", '\ufffd')" for key in kept)
    return _Source(
        query=f"SELECT row, malformed, {fields} FROM source",
        text=f"coalesce(malformed, {text})",
        problem=f"""CASE
            WHEN malformed IS NOT NULL THEN 'wrong number of fields'
            WHEN {invalid} THEN 'invalid UTF-8'
        END""",
        stream=file.read_csv(list(kept.values())),
    )


def _classify(connection: duckdb.DuckDBPyConnection, file: RawFile, layout: Layout, config: IngestConfig) -> None:
    """Table `classified`: row, user_id, item_id, timestamp (ms), rating, and the reason and text of a row that can't
    be used.
    """
    read = _read_json(file, layout) if file.format == "json" else _read_table(file, layout)
    scale = {"s": 1000, "ms": 1}[layout.unit]
    first, last = config.time_range()
    other_unit = {
        "s": ("time / 1000", "timestamp in milliseconds, seconds expected"),
        "ms": ("time * 1000", "timestamp in seconds, milliseconds expected"),
    }[layout.unit]
    query = f"""CREATE TABLE classified AS
        WITH fields AS ({read.query}),
        typed AS (
            SELECT *, {read.problem} AS problem, {_trim('"user"')} AS user_id, {_trim("item")} AS item_id,
                nullif({_trim('"timestamp"')}, '') AS moment, TRY_CAST(moment AS DOUBLE) AS time,
                nullif({_trim("rating")}, '') AS score, TRY_CAST(score AS FLOAT) AS stars
            FROM fields),
        judged AS (
            SELECT *,
                CASE
                    WHEN problem IS NOT NULL THEN problem
                    WHEN user_id IS NULL OR user_id = '' THEN 'missing user'
                    WHEN item_id IS NULL OR item_id = '' THEN 'missing item'
                    WHEN moment IS NULL THEN 'missing timestamp'
                    WHEN time IS NULL OR NOT isfinite(time) OR time <> floor(time)
                        THEN 'timestamp is not a whole number'
                    WHEN time * {scale} >= {first} AND time * {scale} < {last} THEN
                        CASE
                            WHEN score IS NULL THEN NULL
                            WHEN stars IS NULL OR isnan(stars) THEN 'rating is not a number'
                            WHEN stars < {config.min_rating} OR stars > {config.max_rating} THEN 'rating out of range'
                        END
                    WHEN {other_unit[0]} * {scale} >= {first} AND {other_unit[0]} * {scale} < {last}
                        THEN '{other_unit[1]}'
                    ELSE 'timestamp out of range'
                END AS reason
            FROM typed)
        SELECT row, user_id, item_id, CASE WHEN reason IS NULL THEN CAST(time * {scale} AS BIGINT) END AS "timestamp",
            stars AS rating, reason,
            CASE WHEN reason IS NOT NULL THEN ({read.text})[:{_QUARANTINED_CHARACTERS}] END AS text
        FROM judged"""
    source = read.stream.reader if read.stream else None  # noqa: F841
    try:
        connection.execute(query)
    except duckdb.Error as error:
        if read.stream and read.stream.error:
            raise read.stream.error from error
        raise TapestryError(f"{file.path}: can't be read: {error}") from error


def _order(connection: duckdb.DuckDBPyConnection, domain: str) -> None:
    """View `ordered`: the usable rows as interactions, in their order, and whether each repeats the one before.

    One sort serves order and duplicates. DuckDB keeps a table's order in views of it; the schema checks it.
    """
    connection.execute(
        """CREATE TABLE usable AS SELECT row, user_id, item_id, "timestamp", rating FROM classified
        WHERE reason IS NULL ORDER BY user_id, "timestamp", item_id, row"""
    )
    connection.execute("DELETE FROM classified WHERE reason IS NULL")
    same = " AND ".join(f'"{key}" = lag("{key}") OVER ()' for key in ("user_id", "item_id", "timestamp"))
    connection.execute(
        f"""CREATE VIEW ordered AS SELECT user_id, item_id, "timestamp", rating, '{quote(domain)}' AS domain, row,
            coalesce({same}, false) AS duplicate
        FROM usable"""
    )


def _trim(column: str) -> str:
    """Without Unicode's blanks around it; to look for them in plain ASCII costs twice the parsing."""
    return f"CASE WHEN regexp_full_match({column}, '[!-~]*') THEN {column} ELSE trim({column}, '{_BLANKS}') END"


def _count(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    reasons = connection.execute(
        "SELECT reason, count(*) FROM classified WHERE reason IS NOT NULL GROUP BY reason ORDER BY reason"
    ).fetchall()
    return {
        "rows_in": scalar(connection, "SELECT count(*) FROM classified"),
        "rows_quarantined": sum(rows for _, rows in reasons),
        "rows_duplicate": 0,
        "interactions": 0,
        "reasons": dict(reasons),
    }


def _check_quarantine_share(
    connection: duckdb.DuckDBPyConnection, file: RawFile, summary: dict[str, Any], allowed: float
) -> None:
    rows, bad = summary["rows_in"], summary["rows_quarantined"]
    if rows == 0:
        raise TapestryError(f"{file.path}: the file holds no rows; fetch or copy it again")
    if bad <= allowed * rows and bad < rows:
        return
    first = connection.execute(
        f"SELECT row, reason, text FROM classified WHERE reason IS NOT NULL ORDER BY row LIMIT {_SHOWN_ROWS}"
    ).fetchall()
    shown = "\n".join(f"  row {row}: {reason}: {text}" for row, reason, text in first)
    raise TapestryError(
        f"{file.path}: {bad} of {rows} rows can't be used ({bad / rows:.1%}; ingest.max_quarantine_share "
        f"allows {allowed:.1%}). The first:\n{shown}\nMend the file, or raise ingest.max_quarantine_share."
    )
