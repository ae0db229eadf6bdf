"""Dataclasses of tensors, moved as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T")


def to_device(value: T, device: torch.device) -> T:
    """A copy of a tensor, or of a tuple or dataclass of them, on `device`; from pinned memory it doesn't wait."""
    return _mapped(lambda tensor: tensor.to(device, non_blocking=True), value)


def pinned(value: T) -> T:
    """A copy in page-locked memory, from which a CUDA device reads on its own."""
    return _mapped(Tensor.pin_memory, value)


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The tensors that hold NaN or infinite values, and how many, as text; None if none does."""
    # The smallest and largest are not finite if any is not, and take no memory to find.
    found = [name for name, x in tensors.items() if x.numel() and not all(v.isfinite() for v in torch.aminmax(x))]
    counts = (f"{name} ({(~tensors[name].isfinite()).sum():,} of {tensors[name].numel():,})" for name in found)
    return ", ".join(counts) or None


def _mapped(function: Callable[[Tensor], Tensor], value: T) -> T:
    if isinstance(value, Tensor):
        return cast(T, function(value))
    if isinstance(value, tuple):
        return cast(T, tuple(_mapped(function, item) for item in value))
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return cast(
            T, dataclasses.replace(cast(Any, value), **{n: _mapped(function, getattr(value, n)) for n in names})
        )
    return value
