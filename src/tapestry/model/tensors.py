"""Functions on all tensors of a dataclass or mapping: move, pin, find values that are not finite."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T")

_ALIGNED = 256  # bytes: where each tensor of a block starts


def to_device(value: T, device: torch.device) -> T:
    """Copy a tensor, or all tensors of a tuple or dataclass, to `device`. From pinned memory it doesn't wait.

    Values that are no tensors stay as they are. Tuples and dataclasses may be nested. Tensors that share memory, as
    those that `pinned` returns, are copied at once and share memory afterwards.
    """
    copies: dict[int, Tensor] = {}

    def copy(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in copies:
            whole = torch.empty(0, dtype=torch.uint8).set_(memory)
            copies[memory.data_ptr()] = whole.to(device, non_blocking=True)
        there = copies[memory.data_ptr()].untyped_storage()
        view = torch.empty(0, dtype=tensor.dtype, device=device)
        return view.set_(there, tensor.storage_offset(), tensor.shape, tensor.stride())

    return value if device.type == "cpu" else _map_tensors(copy, value)


def pinned(value: T) -> T:
    """Copy all tensors into one block of page-locked memory, from which a CUDA device reads without the CPU."""
    tensors: list[Tensor] = []

    def find(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    _map_tensors(find, value)
    sizes = [-(-tensor.nbytes // _ALIGNED) * _ALIGNED for tensor in tensors]
    block = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=True)
    copies = (
        part[: tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
        for part, tensor in zip(block.split(sizes), tensors, strict=True)
    )
    return _map_tensors(lambda _: next(copies), value)


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name the tensors that hold NaN or infinite values, with their number; None if all values are finite.

    Example: "item.weight (2 of 240)".
    """
    # If any value is not finite, the smallest or largest isn't. Finding these two takes no memory.
    names = [name for name, x in tensors.items() if x.numel() and not all(v.isfinite() for v in torch.aminmax(x))]
    counts = (f"{name} ({(~tensors[name].isfinite()).sum():,} of {tensors[name].numel():,})" for name in names)
    return ", ".join(counts) or None


def _map_tensors(function: Callable[[Tensor], Tensor], value: T) -> T:
    """The same value, with `function` applied to each tensor."""
    if isinstance(value, Tensor):
        return cast(T, function(value))
    if isinstance(value, tuple):
        return cast(T, tuple(_map_tensors(function, item) for item in value))
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return cast(
            T, dataclasses.replace(cast(Any, value), **{n: _map_tensors(function, getattr(value, n)) for n in names})
        )
    return value
