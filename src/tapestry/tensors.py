"""Dataclasses of tensors, moved as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
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
