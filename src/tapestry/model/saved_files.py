"""The files of a trained model, as far as they can be read and checked without torch, which takes seconds to load."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from tapestry.core.errors import TapestryError, one_line
from tapestry.core.settings import parse
from tapestry.model.settings import ModelSettings
from tapestry.sequences.reader import Domain

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
RECENT = "recent.safetensors"  # of a model with recent_weight: how often each item was chosen lately
NEIGHBOURS = "neighbours.safetensors"  # of a model with neighbour_weight: the items most like each item
RERUN = "run `dvc repro train`"


@dataclass(frozen=True)
class SavedConfig:
    """The sections of config.json from which a model is built."""

    model: ModelSettings
    domains: tuple[Domain, ...]


def read_config(folder: Path) -> SavedConfig:
    """Read and validate the config.json in a model's folder.

    Raises:
        TapestryError: it is missing, damaged or of another version.
    """
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if isinstance(content, dict):  # the other sections describe the training, not the model
            content = {key: value for key, value in content.items() if key in ("model", "domains")}
        saved = parse(SavedConfig, content)
        ends = [0, *(domain.end for domain in saved.domains)]
        if not saved.domains or any(
            not start == d.start < d.end for d, start in zip(saved.domains, ends, strict=False)
        ):
            raise TapestryError("domains: their items don't follow each other from 0")
        return saved
    except FileNotFoundError as error:
        raise TapestryError(f"{error.filename}: no trained model; {RERUN}") from error
    except (OSError, TapestryError, ValueError, RecursionError) as error:
        raise TapestryError(
            f"{folder / CONFIG}: damaged or of another version ({one_line(str(error))}); {RERUN}"
        ) from error


@contextmanager
def reading_weights(folder: Path, name: str = WEIGHTS) -> Iterator[Path]:
    """Yield the path of the weights, or of another file of safetensors, in a model's folder.

    Raises:
        TapestryError: the block finds the file missing or damaged.
    """
    path = folder / name
    try:
        yield path
    except FileNotFoundError as error:
        raise TapestryError(f"{path}: no trained model; {RERUN}") from error
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise TapestryError(f"{path}: damaged ({one_line(str(error))}); {RERUN}") from error


def check_weights(folder: Path, model: ModelSettings) -> None:
    """Check that the model's files of safetensors are there and as long as their headers say.

    Args:
        model: the settings in its config.json.

    Raises:
        TapestryError: one isn't.
    """
    optional = {RECENT: model.recent_weight, NEIGHBOURS: model.neighbour_weight}
    for name in [WEIGHTS, *(name for name, weight in optional.items() if weight)]:
        with reading_weights(folder, name) as path, safe_open(path, "numpy"):
            pass
