"""Measure ingest of gzipped reviews, compared with decompression only (zcat) and with pandas: python ingestion.py

The files are generated in the 2018 layout, with texts of Amazon's mean length. The lower bound is
`zcat FILE > /dev/null`, which uses one core; ingest may use two. pandas reads the same files in chunks, keeps the four
columns, drops duplicates, sorts and writes Parquet. The environment variable ROWS sets the rows of all five files.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness import against, apart, peak_mib, report
from reviews import write_reviews
from workloads import PARAMETERS

ROWS = int(os.environ.get("ROWS", "2500000"))
DOMAINS = ("Books", "Clothing_Shoes_and_Jewelry", "Sports_and_Outdoors", "Toys_and_Games", "Video_Games")
ROUNDS = 3
CHUNK = 100_000


def ours(raw: list[Path], out: Path) -> None:
    from tapestry.ingest.ingest import ingest

    for path in raw:
        domain = path.name.partition(".")[0]
        ingest(path, domain, PARAMETERS.ingest, out / f"{domain}.parquet", out / "q.parquet", out / "c.json")


def with_pandas(raw: list[Path], out: Path) -> None:
    import pandas as pd

    names = ["reviewerID", "asin", "unixReviewTime", "overall"]
    for path in raw:
        with pd.read_json(path, lines=True, chunksize=CHUNK, convert_dates=False, dtype=False) as chunks:
            table = pd.concat([chunk[names] for chunk in chunks])
        table = table.drop_duplicates(names[:3]).sort_values(["reviewerID", "unixReviewTime", "asin"])
        table.to_parquet(out / f"{path.name}.pandas.parquet")


def floor(raw: list[Path], out: Path) -> None:
    for path in raw:
        subprocess.run(["zcat", path], stdout=subprocess.DEVNULL, check=True)


def timed(run: Callable[[list[Path], Path], None], raw: list[Path], out: Path) -> tuple[float, float, float]:
    """Measure wall-clock seconds, CPU seconds and peak memory in MiB, in a process that has done its imports."""
    import pandas  # noqa: F401

    import tapestry.ingest.ingest  # noqa: F401

    before = _cpu_seconds()
    started = time.perf_counter()
    run(raw, out)
    seconds = time.perf_counter() - started
    return seconds, _cpu_seconds() - before, peak_mib()


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    contenders = {"zcat": floor, "ours": ours, "pandas": with_pandas}
    measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        raw = [folder / f"{domain}.json.gz" for domain in DOMAINS]
        share = ROWS // len(DOMAINS)
        size = sum(write_reviews(path, share, share // 3, share // 10, seed) for seed, path in enumerate(raw))
        for number in range(ROUNDS):
            for name, run in contenders.items():
                measured[name].append(apart(timed, run, raw, folder))
                print(f"round {number + 1}, {name}: {measured[name][-1]}", flush=True)
    median = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in measured.items()}  # noqa: B905
    case = f"{share * len(DOMAINS):,} rows, 5 files, {size / 2**20:,.0f} MiB before gzip"
    rows = [
        against(case, name, median["ours"][0], seconds, cpu_s=cpu, peak_mib=peak, ours_cpu_s=median["ours"][1])
        for name, (seconds, cpu, peak) in median.items()
    ]
    report("ingest", rows)


if __name__ == "__main__":
    main()
