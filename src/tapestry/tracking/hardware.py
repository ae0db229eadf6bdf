"""The hardware that a stage runs on, and the memory and processor time that it uses."""

from __future__ import annotations

import os
import platform
import resource
import sys
import threading
from collections.abc import Callable, Mapping

import psutil

_PERIOD = 10.0  # seconds between samples
_MB = 1e6


def describe_machine() -> dict[str, str]:
    """Return the tags of a run about its machine.

    `tapestry.core.cpu.describe_cpu` returns the processor's tags; it needs torch, which not every stage imports.
    """
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "cores": str(os.cpu_count()),
        "memory_gb": f"{psutil.virtual_memory().total / 1e9:.1f}",
        "python": platform.python_version(),
    }


def used_device() -> dict[str, str]:
    """Return the tag of the device that torch has used, at the end of a stage; empty if torch isn't imported."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    return {"device": f"cuda: {torch.cuda.get_device_name()}" if torch.cuda.is_initialized() else "cpu"}


def peak_memory() -> float:
    """Return the peak memory of this process so far, in MB."""
    bytes_per_unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_per_unit / _MB


class Sampler:
    """Logs processor and memory usage every `_PERIOD` seconds, under the names that MLflow shows as system metrics.

    Args:
        log: logs figures by name, at a step that counts from 0.
    """

    def __init__(self, log: Callable[[Mapping[str, float], int], None]) -> None:
        self._log = log
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="system metrics", daemon=True)

    def start(self) -> None:
        """Start to sample, in a thread."""
        psutil.cpu_percent()  # the next call returns the average since this one
        self._thread.start()

    def stop(self) -> None:
        """Take a last sample, and end the thread."""
        self._stopped.set()
        self._thread.join()

    def _sample(self) -> None:
        process, step = psutil.Process(), 0
        while True:
            ended = self._stopped.wait(_PERIOD)
            figures = {
                "cpu_utilization_percentage": psutil.cpu_percent(),
                "system_memory_usage_percentage": psutil.virtual_memory().percent,
                "process_memory_usage_megabytes": process.memory_info().rss / _MB,
                **_cuda_figures(),
            }
            self._log({f"system/{name}": value for name, value in figures.items()}, step)
            step += 1
            if ended:
                return


def _cuda_figures() -> dict[str, float]:
    """Return the GPU's memory usage; empty if torch doesn't use a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {
        "gpu_memory_usage_megabytes": torch.cuda.memory_allocated() / _MB,
        "gpu_peak_memory_megabytes": torch.cuda.max_memory_allocated() / _MB,
    }
