"""A trained model on disk: weights in safetensors, the resolved settings beside them in JSON. No pickle."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from tapestry.core.atomic import atomic_folder, write_json
from tapestry.core.errors import TapestryError, one_line
from tapestry.core.settings import parse
from tapestry.model.network import Recommender
from tapestry.model.settings import ModelSettings
from tapestry.model.tensors import not_finite
from tapestry.sequences.reader import Domain

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TRAINING = "training.json"
_AGAIN = "run `dvc repro train`"
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class _Saved:
    """What a model is built from, of config.json."""

    model: ModelSettings
    domains: tuple[Domain, ...]


def save_model(
    folder: Path,
    model: Recommender,
    domains: Sequence[Domain],
    train: Mapping[str, Any],
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write weights and resolved settings to `folder`, atomically. The model must be on the CPU.

    Args:
        train: the training parameters, which config.json is to hold.
        training: what training.json is to hold, if the training came to its end: see `Training.record`.
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
        shutil.copymode(temporary / CONFIG, temporary / WEIGHTS)  # safetensors gives nobody else the right to read


def load_model(folder: Path, data: Sequence[Domain] | None = None) -> tuple[Recommender, tuple[Domain, ...]]:
    """Read what `save_model` wrote; the model is on the CPU, in evaluation mode.

    Args:
        data: the domains of the data to use it on, which must be those that it was trained on.

    Raises:
        TapestryError: a file is missing, damaged, or of another version of the model; the model is of other data; or
            its weights are not finite.
    """
    saved = _read_config(folder)
    domains = saved.domains
    other = None if data is None else _difference(_slices(domains), _slices(data))
    if other:
        raise TapestryError(f"{folder}: a model of other data: {other}; {_AGAIN}, or restore the data it is of")
    with torch.device("meta"):  # without memory, so that the file's shapes are known to be right before any is taken
        model = Recommender(saved.model, domains[-1].end, len(domains))
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            found = {name: f"{part.get_dtype()} {part.get_shape()}" for name, part in parts.items()}
        wrong = _difference(found, {name: f"F32 {list(x.shape)}" for name, x in model.state_dict().items()})
        if wrong:
            raise TapestryError(f"{folder / WEIGHTS}: not the weights that {CONFIG} describes: {wrong}; {_AGAIN}")
        weights = load_file(folder / WEIGHTS)
    except FileNotFoundError as error:
        raise TapestryError(f"{folder / WEIGHTS}: no trained model; run `dvc repro train`") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise TapestryError(f"{folder / WEIGHTS}: damaged ({one_line(str(error))}); {_AGAIN}") from error
    broken = not_finite(weights)
    if broken:
        raise TapestryError(f"{folder / WEIGHTS}: weights are NaN or infinite: {broken}; {_AGAIN}")
    model = Recommender(saved.model, domains[-1].end, len(domains))
    model.load_state_dict(weights)
    return model.eval(), domains


def _read_config(folder: Path) -> _Saved:
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if isinstance(content, dict):  # other sections are of those who made the model
            content = {key: value for key, value in content.items() if key in ("model", "domains")}
        saved = parse(_Saved, content)
        ends = [0, *(domain.end for domain in saved.domains)]
        if not saved.domains or any(
            not start == d.start < d.end for d, start in zip(saved.domains, ends, strict=False)
        ):
            raise TapestryError("domains: their items don't follow each other from 0")
        return saved
    except FileNotFoundError as error:
        raise TapestryError(f"{error.filename}: no trained model; run `dvc repro train`") from error
    except (OSError, TapestryError, ValueError, RecursionError) as error:
        raise TapestryError(
            f"{folder / CONFIG}: damaged or of another version ({one_line(str(error))}); {_AGAIN}"
        ) from error


def _slices(domains: Sequence[Domain]) -> dict[str, str]:
    """By what a domain is called in messages: how many items it has, and where."""
    return {
        f"domain {place}": f"{domain.name} with {domain.end - domain.start} items from {domain.start}"
        for place, domain in enumerate(domains, start=1)
    }


def _difference(found: Mapping[str, str], expected: Mapping[str, str]) -> str | None:
    """What differs, by name, with both values; None if nothing does."""
    wrong = [
        f"{name} is {one_line(found.get(name, 'missing'))}, expected {expected.get(name, 'none')}"
        for name in dict.fromkeys((*expected, *found))
        if found.get(name) != expected.get(name)
    ]
    more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return "; ".join(wrong[:_SHOWN]) + more if wrong else None
