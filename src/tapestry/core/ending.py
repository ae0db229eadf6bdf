"""End a process whose thread may still send metrics to MLflow."""

from __future__ import annotations

import os
import sys
import threading
from typing import NoReturn

SENDER = "mlflow"
"""Name of the thread that sends metrics (`tapestry.tracking.delivery`)."""


def is_sending() -> bool:
    """Say whether the thread that sends metrics still runs: it waits for a slow store."""
    return any(thread.name == SENDER for thread in threading.enumerate())


def end_process(code: int) -> NoReturn:
    """End with an exit code, also if a thread still sends metrics.

    A normal end of the interpreter would interrupt that thread. If it is in C++ code then, the process aborts.
    """
    if is_sending():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
