"""Check that dvc.lock matches code, parameters and metrics: python .ci/lock_in_step.py

Each file of the checkout must have the hash that dvc.lock has of it. Files that are not in the checkout, such as
`data/` in a fresh clone, are not checked, so nothing runs and nothing is downloaded. If something differs, the script
prints the differences and exits with 1. Studies, whose trainings take hours, are not checked.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

ABSENT = ("deleted", "not in cache")  # `dvc status` of a file that isn't here
MEND = "Run `dvc repro`, then commit dvc.lock and metrics/ (`dvc commit --force`, if no output can be another)."


def main() -> int:
    dvc = [sys.executable, "-m", "dvc", "status", "--json", "dvc.yaml"]
    status = json.loads(subprocess.run(dvc, check=True, stdout=subprocess.PIPE, text=True).stdout)
    found = [f"{stage}: {change}" for stage, changes in status.items() for change in differences(changes)]
    if found:
        print("dvc.lock is not in step:", *found, MEND, sep="\n")
    return int(bool(found))


def differences(changes: list[Any]) -> Iterator[str]:
    """What `dvc status` has of a stage, without files that aren't here and without "always changed"."""
    for change in changes:
        if change == "changed command":
            yield change
        elif isinstance(change, dict):
            for files in change.values():
                for name, state in files.items():
                    if isinstance(state, dict):  # parameters of a file
                        yield from (f"{name}: {parameter} {how}" for parameter, how in state.items())
                    elif state not in ABSENT:
                        yield f"{name} {state}"


if __name__ == "__main__":
    sys.exit(main())
