"""The same arithmetic on every x86-64 processor that has AVX2.

torch, MKL and oneDNN each choose the widest instructions that a processor has, and the order of a sum goes with the
width. MKL besides has other code for Intel's processors than for others', but for its COMPATIBLE branch. All are told
by environment variables, which they read when they are loaded or first used: so before torch is imported.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

PORTABLE = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "AVX2"}
_CPUINFO = Path("/proc/cpuinfo")  # Linux


def make_portable(cpuinfo: Path = _CPUINFO) -> None:
    """Ask for the arithmetic of any processor with AVX2, of this process and those it starts.

    What the user has set stays. A processor without AVX2 is left alone: torch would crash on the first instruction.
    """
    if platform.machine() in ("x86_64", "AMD64") and "avx2" in _described(cpuinfo).get("flags", "").split():
        for name, value in PORTABLE.items():
            os.environ.setdefault(name, value)


def describe_cpu(cpuinfo: Path = _CPUINFO) -> dict[str, str]:
    """What a run should say of its processor: {"cpu": its name, "cpu_arithmetic": what decides of the last bits}."""
    import torch  # here: this module is for what comes before

    level = torch.backends.cpu.get_cpu_capability()
    settings = " ".join(f"{name}={os.environ.get(name, 'unset')}" for name in PORTABLE)
    model = _described(cpuinfo).get("model name") or platform.processor() or platform.machine()
    return {"cpu": model, "cpu_arithmetic": f"{level} {settings}"}


def _described(cpuinfo: Path) -> Mapping[str, str]:
    """The first processor's entries in Linux's list; none elsewhere."""
    try:
        first = cpuinfo.read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
