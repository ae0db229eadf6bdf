"""End a process whose thread may still send metrics to MLflow."""

from __future__ import annotations

import os
import sys
import threading

SENDER = "mlflow"
"""Name of the thread that sends metrics (`tapestry.tracking.delivery`)."""


def end_if_sending(code: int) -> None:
    """End the process with an exit code at once, if a thread still sends metrics, since it waits for a slow store.

    A normal end of the interpreter would interrupt that thread. If it is in C++ code then, the process aborts.
    """
    if any(thread.name == SENDER for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
