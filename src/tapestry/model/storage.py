"""A trained model on disk: weights in safetensors and the resolved settings in JSON. No pickle, which can run code."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tapestry.core.atomic import atomic_folder, write_json
from tapestry.core.errors import TapestryError, one_line
from tapestry.model.network import ITEM_WEIGHT, Recommender
from tapestry.model.saved_files import CONFIG, NEIGHBOURS, RECENT, RERUN, WEIGHTS, read_config, reading_weights
from tapestry.model.tensors import not_finite
from tapestry.parallel.shard import WHOLE, Shard
from tapestry.sequences.neighbours import NEIGHBOURS_AN_ITEM, Neighbours
from tapestry.sequences.reader import Domain, domain_of_each_item
from tapestry.sequences.recent import RecentCounts

TRAINING = "training.json"
_COUNT, _LAST_DAY = "count", "last_day"
_ITEM, _SIMILARITY = "item", "similarity"
_MOST_SHOWN = 3  # differences that a message lists
_BLOCK = 1 << 16  # rows of the item embedding that are read at a time


class _NotDrawn(TorchFunctionMode):
    """Leaves out the drawing of initial weights. On the device "meta" it would import torch's compiler."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def save_model(
    folder: Path,
    model: Recommender,
    domains: Sequence[Domain],
    train: Mapping[str, Any],
    training: Mapping[str, Any] | None = None,
    recent: RecentCounts | None = None,
) -> None:
    """Write weights and resolved settings to `folder`, atomically. The model must be on the CPU.

    Args:
        folder: is replaced if it exists.
        model: the model.
        domains: the domains of its data.
        train: the training settings, for config.json.
        training: the contents of training.json (`tapestry.training.loop.Training.record`); None writes no such file.
        recent: counts of all known interactions, of which a model with `recent_weight` keeps the latest.
    """
    settings = {
        "model": dataclasses.asdict(model.settings),
        "train": train,
        "domains": [dataclasses.asdict(domain) for domain in domains],
    }
    with atomic_folder(folder) as temporary:
        write_json(temporary / CONFIG, settings)
        save_file(dict(sorted(model.state_dict().items())), temporary / WEIGHTS)
        if training is not None:
            write_json(temporary / TRAINING, training)
        if model.settings.recent_weight and recent is not None:
            latest = {_COUNT: torch.from_numpy(recent.latest()), _LAST_DAY: torch.tensor(recent.last_day)}
            save_file(latest, temporary / RECENT)
        if model.neighbours is not None:
            table = {_ITEM: model.neighbours.item_IK, _SIMILARITY: model.neighbours.similarity_IK}
            save_file({name: torch.from_numpy(values) for name, values in table.items()}, temporary / NEIGHBOURS)
        for made in temporary.glob("*.safetensors"):  # safetensors makes files that only their owner can read
            shutil.copymode(temporary / CONFIG, made)


def load_model(
    folder: Path, data: Sequence[Domain] | None = None, shard: Shard = WHOLE
) -> tuple[Recommender, tuple[Domain, ...]]:
    """Read what `save_model` wrote. The model is on the CPU, in evaluation mode.

    Args:
        folder: holds config.json and model.safetensors.
        data: the domains of the data on which the model will be used. They must be those on which it was trained.
        shard: the rows of the item embedding to read.

    Returns:
        The model, and the domains on which it was trained.

    Raises:
        TapestryError: a file is missing, damaged or of another version of the model; the model was trained on other
            data; or its weights are not finite.
    """
    saved = read_config(folder)
    domains = saved.domains
    difference = None if data is None else _difference(_domain_slices(domains), _domain_slices(data))
    if difference:
        raise TapestryError(f"{folder}: a model of other data: {difference}; {RERUN}, or restore the data it is of")
    with torch.device("meta"), _NotDrawn():  # takes no memory: the shapes of the file are checked first
        model = Recommender(saved.model, domains[-1].end, len(domains))
    with reading_weights(folder) as path:
        with safe_open(path, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            found = {name: f"{part.get_dtype()} {part.get_shape()}" for name, part in parts.items()}
        kinds = {torch.float32: "F32", torch.int64: "I64"}
        expected = {name: f"{kinds[x.dtype]} {list(x.shape)}" for name, x in model.state_dict().items()}
        wrong = _difference(found, expected)
        if wrong:
            raise TapestryError(f"{path}: not the weights that {CONFIG} describes: {wrong}; {RERUN}")
        weights = load_file(path) if shard == WHOLE else _read_shard(path, shard)
    not_finite_weights = not_finite(weights)
    if not_finite_weights:
        raise TapestryError(f"{folder / WEIGHTS}: weights are NaN or infinite: {not_finite_weights}; {RERUN}")
    model = Recommender(saved.model, domains[-1].end, len(domains), shard)
    model.load_state_dict(weights)
    model.neighbours = _read_neighbours(folder, domains) if saved.model.neighbour_weight else None
    return model.eval(), domains


def read_latest_counts(folder: Path, model: Recommender) -> RecentCounts | None:
    """Read how often each item was chosen in the last 30 days of the data; None if the model doesn't use it.

    Raises:
        TapestryError: the file is missing or damaged, or has another number of items, or no day.
    """
    if model.settings.recent_weight == 0:
        return None
    with reading_weights(folder, RECENT) as path:
        tensors = load_file(path)
        count_I, last_day = tensors[_COUNT].numpy(), tensors[_LAST_DAY].numpy()
    if count_I.shape != (model.items,) or count_I.dtype != np.int64 or count_I.min() < 0:
        raise TapestryError(f"{path}: not one count for each of the model's {model.items} items; {RERUN}")
    if last_day.shape != () or last_day.dtype != np.int64 or last_day < 0:
        raise TapestryError(f"{path}: {_LAST_DAY} is not a number of days since 1970; {RERUN}")
    return RecentCounts.as_of_one_day(count_I, int(last_day))


def _read_neighbours(folder: Path, domains: Sequence[Domain]) -> Neighbours:
    """Read the neighbours of each item, of whatever shard.

    Raises:
        TapestryError: the file is missing or damaged, or its neighbours are no items of the same domain.
    """
    with reading_weights(folder, NEIGHBOURS) as path:
        tensors = load_file(path)
        item_IK, similarity_IK = tensors[_ITEM].numpy(), tensors[_SIMILARITY].numpy()
    items = domains[-1].end
    shape = (items, NEIGHBOURS_AN_ITEM)
    if any(x.shape != shape or x.dtype != kind for x, kind in ((item_IK, np.int32), (similarity_IK, np.float32))):
        raise TapestryError(f"{path}: not {shape[1]} neighbours of each of the model's {items} items; {RERUN}")
    domain_I = domain_of_each_item(domains)
    own_IK = (item_IK >= 0) & (item_IK < items) & (domain_I[item_IK.clip(0, items - 1)] == domain_I[:, None])
    none_IK = (item_IK == -1) & (similarity_IK == 0)
    if not (own_IK | none_IK).all() or not ((similarity_IK >= 0) & np.isfinite(similarity_IK)).all():
        raise TapestryError(f"{path}: neighbours of other domains, or without a similarity; {RERUN}")
    return Neighbours(item_IK, similarity_IK)


def _read_shard(path: Path, shard: Shard) -> dict[str, Tensor]:
    """Read all weights, of the item embedding only a shard; a block of it at a time."""
    weights = {}
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118
            if name != ITEM_WEIGHT:
                weights[name] = file.get_tensor(name)
                continue
            table = file.get_slice(name)
            rows, width = table.get_shape()
            weights[name] = torch.empty(shard.size(rows), width)
            for start in range(0, rows, _BLOCK):
                end = min(start + _BLOCK, rows)
                weights[name][shard.local_slice(start, end)] = shard.of(table[start:end], start)
    return weights


def _domain_slices(domains: Sequence[Domain]) -> dict[str, str]:
    """Each domain's name and items, by its name in messages: "domain 1" → "Books with 10 items from 0"."""
    return {
        f"domain {number}": f"{domain.name} with {domain.end - domain.start} items from {domain.start}"
        for number, domain in enumerate(domains, start=1)
    }


def _difference(found: Mapping[str, str], expected: Mapping[str, str]) -> str | None:
    """The entries that differ, with both values; None if all are equal. Example: "x is 3, expected 4"."""
    wrong = [
        f"{name} is {one_line(found.get(name, 'missing'))}, expected {expected.get(name, 'none')}"
        for name in dict.fromkeys((*expected, *found))
        if found.get(name) != expected.get(name)
    ]
    more = f" and {len(wrong) - _MOST_SHOWN} more" if len(wrong) > _MOST_SHOWN else ""
    return "; ".join(wrong[:_MOST_SHOWN]) + more if wrong else None
