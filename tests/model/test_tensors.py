"""Moving a structure of tensors to a device keeps the structure. The device is `meta`, which every machine has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from small import WHOLE_MODEL, random_sequences
from torch import Tensor

from tapestry.model.network import Recommender
from tapestry.model.tensors import pinned, to_device
from tapestry.sequences.batches import pack
from tapestry.training.steps import Step, prepare_step

CPU, META = torch.device("cpu"), torch.device("meta")


@dataclass(frozen=True)
class Inner:
    row: Tensor
    name: str


@dataclass(frozen=True, eq=False)
class Outer:
    inner: Inner
    inners: tuple[Inner, ...]
    pair: tuple[Tensor, int]
    array: Any
    nothing: Inner | None


def outer() -> Outer:
    first, second = Inner(torch.arange(3), "first"), Inner(torch.ones(2, 2, dtype=torch.bool), "second")
    return Outer(first, (second, first), (torch.rand(4), 5), np.arange(3), None)


def test_all_tensors_move_and_nothing_else_changes() -> None:
    value = outer()
    moved = to_device(value, META)
    pairs = [
        (value.inner.row, moved.inner.row),
        (value.inners[0].row, moved.inners[0].row),
        (value.inners[1].row, moved.inners[1].row),
        (value.pair[0], moved.pair[0]),
    ]
    for before, after in pairs:
        assert (before.device, after.device) == (CPU, META)
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
    assert isinstance(moved, Outer)
    assert isinstance(moved.inners, tuple)
    assert isinstance(moved.pair, tuple)
    assert [type(inner) for inner in (moved.inner, *moved.inners)] == [Inner] * 3
    assert [inner.name for inner in (moved.inner, *moved.inners)] == ["first", "second", "first"]
    assert moved.pair[1] == 5
    assert moved.array is value.array
    assert moved.nothing is None


def test_values_stay_the_same_on_the_cpu() -> None:
    value = outer()
    moved = to_device(value, CPU)
    assert torch.equal(moved.inner.row, value.inner.row)
    assert torch.equal(moved.inners[0].row, value.inners[0].row)
    assert torch.equal(moved.pair[0], value.pair[0])


def test_values_without_tensors_are_returned_unchanged() -> None:
    array, words = np.arange(3), ["a", "b"]
    for value in (array, words, "word", 3, None):
        assert to_device(value, META) is value
    assert to_device((), META) == ()
    assert to_device(torch.arange(3), META).device == META


def tensors_of(value: object) -> list[Tensor]:
    """All tensors in the attributes of an object of any class."""
    if isinstance(value, Tensor):
        return [value]
    parts = value if isinstance(value, tuple) else getattr(value, "__dict__", {}).values()
    return [tensor for part in parts for tensor in tensors_of(part)]


def test_all_tensors_of_a_training_step_move() -> None:
    sequences = random_sequences(0)
    model = Recommender(WHOLE_MODEL, sequences.items, len(sequences.domains))
    batch = pack(sequences, sequences.offsets[:-1], sequences.offsets[1:] - 1)
    users = np.arange(len(sequences.user_id))
    step = prepare_step(model, "tiled", sequences, users, batch, 4, np.random.default_rng(0))
    moved: Step = to_device(step, META)
    before, after = tensors_of(step), tensors_of(moved)
    assert len(before) >= 6 + 4 + 7 + 5 * len(step.segments.tiles) + 1 + 5 * len(step.targets)
    assert [(tensor.shape, tensor.dtype) for tensor in before] == [(tensor.shape, tensor.dtype) for tensor in after]
    assert {tensor.device for tensor in before} == {CPU}
    assert {tensor.device for tensor in after} == {META}
    assert moved.users is step.users
    assert moved.segments.lengths_G is step.segments.lengths_G
    assert moved.segments.kernel == "tiled"


def test_tensors_that_share_memory_share_it_afterwards() -> None:
    memory = torch.arange(10)
    first, second = to_device((memory[2:5], memory[4:].view(2, 3)), META)
    assert first.untyped_storage()._cdata == second.untyped_storage()._cdata
    assert (first.shape, second.shape, first.storage_offset(), second.stride()) == ((3,), (2, 3), 2, (3, 1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_tensors_arrive_on_the_device_with_their_values() -> None:
    value = outer()
    moved = to_device(pinned(value), torch.device("cuda"))
    assert torch.equal(moved.inner.row.cpu(), value.inner.row)
    assert torch.equal(moved.inners[0].row.cpu(), value.inners[0].row)
    assert torch.equal(moved.pair[0].cpu(), value.pair[0])
    assert moved.inner.row.untyped_storage().data_ptr() == moved.pair[0].untyped_storage().data_ptr()
