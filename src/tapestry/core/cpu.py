"""Settings that give the same arithmetic on every x86-64 processor with AVX2.

torch, MKL and oneDNN each choose the widest vector instructions of the processor, and the order of a sum depends on
their width. MKL also has different code for Intel's processors than for others, unless its branch COMPATIBLE is set.
All three read environment variables when they are loaded or first used, so these must be set before torch is imported.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

PORTABLE = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "AVX2"}
_CPUINFO = Path("/proc/cpuinfo")  # Linux


def make_portable(cpuinfo: Path = _CPUINFO) -> None:
    """Set the environment variables of `PORTABLE` for this process and the processes that it starts.

    Variables that the user has set stay. On a processor without AVX2 nothing is set: torch would crash on the first
    AVX2 instruction.
    """
    if platform.machine() in ("x86_64", "AMD64") and "avx2" in _read_cpuinfo(cpuinfo).get("flags", "").split():
        for name, value in PORTABLE.items():
            os.environ.setdefault(name, value)


def describe_cpu(cpuinfo: Path = _CPUINFO) -> dict[str, str]:
    """Describe the processor: {"cpu": its name, "cpu_arithmetic": the settings that decide the last bits of a sum}."""
    import torch  # not above: make_portable must run before torch is imported

    level = torch.backends.cpu.get_cpu_capability()
    settings = " ".join(f"{name}={os.environ.get(name, 'unset')}" for name in PORTABLE)
    model = _read_cpuinfo(cpuinfo).get("model name") or platform.processor() or platform.machine()
    return {"cpu": model, "cpu_arithmetic": f"{level} {settings}"}


def _read_cpuinfo(cpuinfo: Path) -> Mapping[str, str]:
    """Read the entries of the first processor in Linux's cpuinfo; empty on other systems."""
    try:
        first = cpuinfo.read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
