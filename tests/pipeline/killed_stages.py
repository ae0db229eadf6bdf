"""Kills each of some stages at random moments, and then runs it to its end: python killed_stages.py CASE

The working directory is a checkout whose stages have not run. CASE is JSON: {"seed", "kills" of a stage, "finished": a
checkout with the same parameters in which all stages have run, "outputs": {"stage" or "stage@domain": [path]}}. After
each kill, an output is either missing or complete. At the end, outputs are equal to those of `finished`.

A stage runs in a fork of this process, which has imported all that stages need: so a kill falls into the stage's own
work, and not into its imports. Prints how often each stage was killed before its end, as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path


def main(seed: int, kills: int, finished: Path, outputs: dict[str, list[str]]) -> None:
    sys.path[:0] = [str(Path("stages").resolve()), str(Path("src").resolve())]
    for stage in outputs:
        importlib.import_module(stage.partition("@")[0])
    moments = random.Random(seed)
    killed = dict.fromkeys(outputs, 0)
    for stage, names in outputs.items():
        paths = [Path(name) for name in names]
        seconds = finish(stage)
        for _ in range(kills):
            for path in paths:  # as DVC does before it runs a stage
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            killed[stage] += is_killed(stage, moments.uniform(0, seconds))
            for path in filter(Path.exists, paths):
                require_same(stage, path, finished / path)
        finish(stage)
        for path in paths:
            require_same(stage, path, finished / path)
    print(json.dumps(killed))


def start(stage: str) -> int:
    """Run a stage in a fork; return its process id."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.dup2(2, 1)
            name, *arguments = stage.split("@")
            sys.argv = ["stages/run.py", name, *arguments]
            importlib.import_module("run").run(name, *arguments)
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os._exit(code)
    return process


def finish(stage: str) -> float:
    """Run a stage to its end, which must be a success; return the seconds that it took."""
    started = time.perf_counter()
    _, status = os.waitpid(start(stage), 0)
    if status != 0:
        sys.exit(f"{stage} ended with status {status}")
    return time.perf_counter() - started


def is_killed(stage: str, seconds: float) -> bool:
    """Run a stage, and kill it after some seconds; return whether it was still running."""
    process = start(stage)
    time.sleep(seconds)
    ended, _ = os.waitpid(process, os.WNOHANG)
    if ended == 0:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    return ended == 0


def require_same(stage: str, ours: Path, theirs: Path) -> None:
    if contents(ours) != contents(theirs):
        sys.exit(f"{stage}: {ours} is not that of the undisturbed run")


def contents(path: Path) -> dict[str, bytes]:
    """Return the bytes of a file, or of all files of a folder, by path."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


if __name__ == "__main__":
    case = json.loads(sys.argv[1])
    main(case["seed"], case["kills"], Path(case["finished"]), case["outputs"])
