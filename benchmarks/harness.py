"""Shared code of the benchmarks: interleaved timing, runs in new processes, tables, and result files.

Contenders run in turn, round after round, so that a change in the machine's speed affects all of them. Each round
starts with another contender. A figure is the median over the rounds, without the first one, which warms up.
"""

from __future__ import annotations

import datetime
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from tapestry.core.atomic import write_json

RESULTS = Path(__file__).parent / "results"
P = ParamSpec("P")
T = TypeVar("T")


def interleaved(contenders: Mapping[str, Callable[[], object]], rounds: int, name: str) -> dict[str, float]:
    """Run the contenders in turn; return the median seconds of each."""
    seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
    for number in tqdm(range(rounds + 1), desc=name, unit="round", leave=False, disable=None):
        order = list(contenders.items())
        first = number % len(order)
        for contender, run in order[first:] + order[:first]:
            started = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number > 0:
                seconds[contender].append(time.perf_counter() - started)
    return {contender: statistics.median(times) for contender, times in seconds.items()}


def apart(run: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run a function in a new process and return its result, so that the memory peak is this function's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, *arguments, **named).result()


def peak_mib() -> float:
    """Return the peak memory of this process, in MiB (Linux). That of getrusage is at least the parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Fit the slope of log seconds over log size: 0 is constant, 1 linear."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def against(case: str, other: str, ours: float, others: float, **more: Any) -> dict[str, Any]:
    """Return a row of results. ratio = others / ours: above 1, ours is faster."""
    return {"case": case, "other": other, "ours_s": ours, "other_s": others, "ratio": others / ours, **more}


def report(name: str, rows: list[dict[str, Any]]) -> None:
    """Print the rows as a Markdown table and write results/<name>.json with its .meta.json; <name>_cuda with a GPU."""
    name = f"{name}_cuda" if torch.cuda.is_available() else name
    columns = list(dict.fromkeys(column for row in rows for column in row))
    print(f"\n{name}\n" + "\n".join(_line(cells) for cells in [columns, ["---"] * len(columns)]))
    for row in rows:
        print(_line([_shown(row.get(column, "")) for column in columns]))
    sys.stdout.flush()
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / f"{name}.json", [{key: _rounded(value) for key, value in row.items()} for row in rows])
    write_json(
        RESULTS / f"{name}.meta.json",
        {
            "machine": machine(),
            "versions": {"python": platform.python_version()} | {p: version(p) for p in ("torch", "numpy")},
            "command": " ".join(["python", *sys.argv]),
            "date": datetime.date.today().isoformat(),
            "threads": torch.get_num_threads(),
        },
    )


def machine() -> str:
    """Describe the processor, its threads and vector width, and the GPU if there is one."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processor}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}{gpu}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _rounded(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value
