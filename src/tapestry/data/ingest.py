"""One domain's raw file → validated interactions, a quarantine with reasons, and counts that add up.

interactions: user_id, item_id (text, the source's own), timestamp (int64, milliseconds since 1970 UTC),
rating (float32, null where the source has none), domain, row (of the raw file, from 1); ordered by
user_id, timestamp, item_id. The same user, item and timestamp is kept once: its first row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from tapestry.atomic import write_json
from tapestry.config import IngestConfig
from tapestry.data.database import connect, quote, scalar, write_parquet
from tapestry.data.raw import Layout, RawFile, RowStream
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
        _read_fields(connection, file, layout)
        _classify(connection, config, layout)
        summary = _count(connection)
        _check_quarantine_share(connection, file, summary, config.max_quarantine_share)
        connection.execute(
            f"""CREATE TABLE interactions AS
            SELECT user_id, item_id, timestamp, arg_min_null(rating, row) AS rating,
                '{quote(domain)}' AS domain, min(row) AS row
            FROM usable GROUP BY user_id, item_id, timestamp"""
        )
        summary["interactions"] = scalar(connection, "SELECT count(*) FROM interactions")
        summary["rows_duplicate"] = scalar(connection, "SELECT count(*) FROM usable") - summary["interactions"]
        check_interactions(connection, domain, config)
        write_parquet(connection, "SELECT * FROM interactions ORDER BY user_id, timestamp, item_id", interactions)
        write_parquet(
            connection,
            f"""SELECT '{quote(raw.name)}' AS file, row, reason, text FROM quarantine ORDER BY row""",
            quarantine,
        )
    parts = summary["rows_quarantined"] + summary["rows_duplicate"] + summary["interactions"]
    if summary["rows_in"] != parts:
        raise AssertionError(f"{raw.name}: {summary['rows_in']} rows in, but {parts} accounted for")
    write_json(counts, {"file": raw.name, **summary})
    return summary


def _read_fields(connection: duckdb.DuckDBPyConnection, file: RawFile, layout: Layout) -> None:
    """Table `fields`: row, text (of the whole row, cut), problem, and the four fields as text."""
    names = [*layout.needed, layout.rating]
    keys = ("user", "item", "timestamp", "rating")
    cut = f"[:{_QUARANTINED_CHARACTERS}]"
    stream: RowStream | None = None
    if file.format == "json":
        paths = ", ".join(f"'$.\"{quote(name)}\"'" for name in names)
        stream = file.read_lines()
        query = f"""
            WITH decoded AS (SELECT row, line, TRY(rtrim(decode(line), '\r\n')) AS text FROM source),
            valid AS (
                SELECT *, CASE WHEN json_valid(text) THEN json_type(text) = 'OBJECT' ELSE false END AS is_object
                FROM decoded),
            parsed AS (
                SELECT row, coalesce(text, rtrim(decode(line, 'replace'), '\r\n')) AS text,
                    CASE WHEN text IS NULL THEN 'invalid UTF-8'
                         WHEN {_trim("text")} = '' THEN 'blank line'
                         WHEN NOT is_object THEN 'not a JSON object' END AS problem,
                    CASE WHEN is_object THEN json_extract_string(text, [{paths}]) END AS f
                FROM valid)
            SELECT row, text{cut} AS text, problem, {", ".join(f"f[{i + 1}] AS {k}" for i, k in enumerate(keys))}
            FROM parsed"""
    else:
        present = file.columns()
        kept = [name for name in names if name in present]
        fields = [f'"{name}"' if name in present else "NULL" for name in names]
        text = " || ',' || ".join(f"coalesce(CAST(\"{name}\" AS VARCHAR), '')" for name in kept)
        if file.format == "csv":
            stream = file.read_csv(kept)
            invalid = " OR ".join(f"contains(\"{name}\", '\ufffd')" for name in kept)
            problem = (
                f"CASE WHEN malformed IS NOT NULL THEN 'wrong number of fields' WHEN {invalid} THEN 'invalid UTF-8' END"
            )
            text = f"coalesce(malformed, {text})"
            origin, row = "source", "row"
        else:
            problem = "NULL"
            origin, row = f"read_parquet('{quote(file.path)}', file_row_number = true)", "file_row_number + 1"
        columns = ", ".join(f"CAST({field} AS VARCHAR) AS {key}" for field, key in zip(fields, keys, strict=True))
        query = f"SELECT {row} AS row, ({text}){cut} AS text, {problem} AS problem, {columns} FROM {origin}"
    source = stream.reader if stream else None  # noqa: F841
    try:
        connection.execute(f"CREATE TABLE fields AS {query}")
    except duckdb.Error as error:
        if stream and stream.error:
            raise stream.error from error
        raise TapestryError(f"{file.path}: can't be read: {error}") from error


def _classify(connection: duckdb.DuckDBPyConnection, config: IngestConfig, layout: Layout) -> None:
    """Tables `quarantine` (row, reason, text) and `usable` (row, user_id, item_id, timestamp, rating)."""
    scale = {"s": 1000, "ms": 1}[layout.unit]
    first, last = config.time_range()
    other_unit = {
        "s": ("time / 1000", "timestamp in milliseconds, seconds expected"),
        "ms": ("time * 1000", "timestamp in seconds, milliseconds expected"),
    }[layout.unit]
    connection.execute(
        f"""CREATE TABLE classified AS
        WITH typed AS (
            SELECT row, text, problem, {_trim('"user"')} AS user_id, {_trim("item")} AS item_id,
                nullif({_trim('"timestamp"')}, '') AS moment, TRY_CAST(moment AS DOUBLE) AS time,
                nullif({_trim("rating")}, '') AS score, TRY_CAST(score AS FLOAT) AS stars
            FROM fields)
        SELECT row, text, user_id, item_id, stars,
            CASE WHEN problem IS NULL AND time BETWEEN -9e15 AND 9e15 THEN CAST(time * {scale} AS BIGINT) END AS ms,
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
                WHEN {other_unit[0]} * {scale} >= {first} AND {other_unit[0]} * {scale} < {last} THEN '{other_unit[1]}'
                ELSE 'timestamp out of range'
            END AS reason
        FROM typed"""
    )
    connection.execute("DROP TABLE fields")
    connection.execute("CREATE TABLE quarantine AS SELECT row, reason, text FROM classified WHERE reason IS NOT NULL")
    connection.execute(
        """CREATE TABLE usable AS SELECT row, user_id, item_id, ms AS timestamp, stars AS rating
        FROM classified WHERE reason IS NULL"""
    )


def _trim(column: str) -> str:
    return f"trim({column}, '{_BLANKS}')"


def _count(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    reasons = connection.execute("SELECT reason, count(*) FROM quarantine GROUP BY reason ORDER BY reason").fetchall()
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
    first = connection.execute(f"SELECT row, reason, text FROM quarantine ORDER BY row LIMIT {_SHOWN_ROWS}").fetchall()
    shown = "\n".join(f"  row {row}: {reason}: {text}" for row, reason, text in first)
    raise TapestryError(
        f"{file.path}: {bad} of {rows} rows can't be used ({bad / rows:.1%}; ingest.max_quarantine_share "
        f"allows {allowed:.1%}). The first:\n{shown}\nMend the file, or raise ingest.max_quarantine_share."
    )
