"""Where to compute, and how to do so reproducibly."""

from __future__ import annotations

from typing import Literal

import torch

from tapestry.core.errors import TapestryError


def choose_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU.

    Raises:
        TapestryError: `cuda` is asked for and not there.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise TapestryError(
            "device: cuda is asked for, but torch sees no CUDA device; use device: auto or cpu, or install "
            "a CUDA build of torch and its driver"
        )
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def make_deterministic(seed: int, threads: int) -> None:
    """Fix torch's seed, its CPU threads and its algorithms: same inputs, same bytes (on CPU)."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Writing NaN into every new tensor finds code that reads before it writes; it costs a twentieth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
