"""Arithmetic that doesn't depend on the processor: the variables that are set, and the user's own settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tapestry.core.cpu import PORTABLE, make_portable
from tapestry.training.row_adam import _root


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cpuinfo of a processor with AVX2; no variable is set."""
    for name in PORTABLE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nflags\t\t: fpu avx avx2 fma\n\nprocessor\t: 1\n")
    return path


def settings() -> dict[str, str]:
    return {name: os.environ[name] for name in PORTABLE if name in os.environ}


def test_portable_arithmetic_is_set_on_a_processor_with_avx2(cpuinfo: Path) -> None:
    make_portable(cpuinfo)
    assert settings() == PORTABLE


def test_variables_set_by_the_user_stay(cpuinfo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "AUTO")
    make_portable(cpuinfo)
    assert settings() == PORTABLE | {"MKL_CBWR": "AUTO"}


@pytest.mark.parametrize("flags", ["fpu avx", "fpu avx512f avx2x"])
def test_nothing_is_set_on_a_processor_without_avx2(cpuinfo: Path, flags: str) -> None:
    cpuinfo.write_text(f"flags : {flags}\n")
    make_portable(cpuinfo)
    assert settings() == {}


def test_nothing_is_set_on_another_kind_of_processor(cpuinfo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_portable(cpuinfo / "not there")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    make_portable(cpuinfo)
    assert settings() == {}


def test_importing_the_package_does_not_import_torch() -> None:
    """Otherwise the variables would be set too late."""
    code = "import sys, tapestry; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float32, 2e-7), (torch.float64, 4e-16)])
def test_the_optimizers_root_is_within_two_roundings(kind: torch.dtype, tolerance: float) -> None:
    x = torch.logspace(-37, 37, 5000, dtype=kind)
    exact = x.double().numpy() ** 0.5
    assert (abs(_root(x).double().numpy() - exact) <= tolerance * exact).all()
    assert _root(torch.zeros(20, dtype=kind)).tolist() == [0.0] * 20
