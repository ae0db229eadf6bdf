"""Time and memory of sessionize, against pandas and Polars, for growing numbers of rows: python sessionizing.py

The interactions are random, in five domains; most users have few. pandas and Polars do the same work
(`peers/sessions.py`, in the environment of RecTools), without our checks and statistics of the written files. All may
use two threads. Each run is a separate process, so that its peak memory can be measured. Sizes below ten million rows
run in five rounds, in turn, and have medians: there one run differs much from the next.

Environment variables: ROWS are the sizes, ascending. PANDAS_ROWS and POLARS_ROWS are the largest sizes for pandas and
Polars.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from harness import against, apart, exponent, peak_mib, report
from peer import PEERS
from workloads import PARAMETERS

from tapestry.baselines.rectools_models import rectools_python
from tapestry.core.atomic import write_json
from tapestry.sessionize.sessionize import DomainInput, sessionize
from tapestry.tables.database import connect

ROWS = tuple(int(rows) for rows in os.environ.get("ROWS", "1000000,10000000,50000000,100000000").split(","))
PEER_ROWS = {
    "pandas": int(os.environ.get("PANDAS_ROWS", "10000000")),
    "polars": int(os.environ.get("POLARS_ROWS", "50000000")),
}
DOMAINS = ("Books", "Clothing_Shoes_and_Jewelry", "Sports_and_Outdoors", "Toys_and_Games", "Video_Games")
ROUNDS, LARGE = 5, 10_000_000
Figures = dict[str, Any]


def write_interactions(folder: Path, rows: int) -> None:
    """Write one Parquet file per domain and its counts, as ingest does."""
    users, items = rows // 6, rows // 75  # interactions per user and per item as in the 2018 release
    with connect("4GB", PARAMETERS.sessionize.threads) as connection:
        for index, domain in enumerate(DOMAINS):
            streams = [3 * index + column for column in range(3)]  # of independent random numbers
            uniform = [f"(hash({3 * len(DOMAINS)} * i + {s}) >> 11)::DOUBLE / (1::BIGINT << 53)" for s in streams]
            connection.execute(
                f"""COPY (
                    SELECT DISTINCT ON (user_id, timestamp, item_id) * FROM (
                        SELECT 'A' || lpad(({users} * ({uniform[0]}) ** 1.5)::BIGINT::VARCHAR, 13, '0') AS user_id,
                            'B{index}' || lpad(({items} * ({uniform[1]}) ** 2)::BIGINT::VARCHAR, 8, '0') AS item_id,
                            (1262304000 + 86400 * (3000 * ({uniform[2]}))::BIGINT) * 1000 AS timestamp,
                            5::FLOAT AS rating, '{domain}' AS domain, i + 1 AS row
                        FROM range({rows // len(DOMAINS)}) numbers(i))
                    ORDER BY user_id, timestamp, item_id
                ) TO '{folder}/{domain}.parquet' (FORMAT parquet, COMPRESSION zstd)"""
            )
            (count,) = connection.execute(f"SELECT count(*) FROM '{folder}/{domain}.parquet'").fetchone() or (0,)
            counts = {"rows_in": count, "rows_quarantined": 0, "rows_duplicate": 0, "interactions": count}
            write_json(folder / f"{domain}.json", counts | {"reasons": {}})


def ours(folder: Path) -> Figures:
    inputs = {name: DomainInput(folder / f"{name}.parquet", folder / f"{name}.json") for name in DOMAINS}
    started = time.perf_counter()
    metrics = sessionize(inputs, PARAMETERS.sessionize, folder / "ours")
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_mib": peak_mib(), "kept": metrics["all"]["interactions"]}


def peer(folder: Path, library: str) -> Figures:
    command: list[str | Path] = [rectools_python(), PEERS / "sessions.py", library, folder, *DOMAINS]
    threads = {"POLARS_MAX_THREADS": str(PARAMETERS.sessionize.threads)}
    process = subprocess.run(command, env=os.environ | threads, stdout=subprocess.PIPE, check=True)
    figures: Figures = json.loads(process.stdout)
    return figures


def main() -> None:
    rows: list[dict[str, Any]] = []
    seconds: list[float] = []
    for count in ROWS:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write_interactions(folder, count)
            run: dict[str, Callable[[], Figures]] = {"ours": partial(apart, ours, folder)}
            run |= {name: partial(peer, folder, name) for name, largest in PEER_ROWS.items() if count <= largest}
            rounds = [{name: once() for name, once in run.items()} for _ in range(ROUNDS if count < LARGE else 1)]
        others = {
            name: {key: statistics.median(one[name][key] for one in rounds) for key in rounds[0][name]} for name in run
        }
        mine = others["ours"]
        seconds.append(mine["seconds"])
        for name, other in others.items():
            assert other["kept"] == mine["kept"], (name, other, mine)
            row = against(f"{count:,} rows, {mine['kept']:,} kept", name, mine["seconds"], other["seconds"])
            rows.append(row | {"peak_mib": other["peak_mib"]})
            print(rows[-1], flush=True)
    if len(ROWS) > 1:
        case = f"{ROWS[0]:,} to {ROWS[-1]:,} rows"
        rows.append({"case": case, "ours_s": seconds[-1], "exponent": exponent(ROWS, seconds)})
    report("sessionize", rows)


if __name__ == "__main__":
    main()
