"""The choice of the device, and reproducible computation on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from tapestry.core.errors import TapestryError


def choose_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device that `device` in params.yaml selects. `auto` is CUDA if torch sees a CUDA device, else the CPU.

    Raises:
        TapestryError: `cuda`, but torch sees no CUDA device.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise TapestryError(
            "device: cuda is asked for, but torch sees no CUDA device; use device: auto or cpu, or install "
            "a CUDA build of torch and its driver"
        )
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def make_deterministic(seed: int, threads: int) -> None:
    """Fix torch's seed, CPU threads and algorithms. On the CPU, the same inputs then give the same bytes."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("warn")  # `use_deterministic_algorithms` also imports torch's compiler
    # By default torch then also fills every new tensor with NaN, to find code that reads before it writes. That takes
    # 5 % of a step, and changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def no_row_written_twice() -> Iterator[None]:
    """Promise torch that writes to rows by their index, inside, write no row twice.

    So their order doesn't matter. In deterministic mode torch would sort each index on CUDA, by some ten kernels.
    """
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(0)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
