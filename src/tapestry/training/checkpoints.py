"""Checkpoints: the state of a training on disk, from which one that was killed goes on and ends in the same bytes.

A checkpoint is a folder that is written atomically:

    state.safetensors   all tensors, by their path in the tree of the state
    values.json         all other values, likewise
    checksums.json      SHA-256 of both files

The folder of a training holds the last `_KEPT` checkpoints. Its name is a hash of all that determines the training:
parameters, data, code, packages and the processor's arithmetic. So a checkpoint never continues under others.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from tapestry.core.atomic import atomic_folder, write_json
from tapestry.core.errors import TapestryError

_TENSORS, _VALUES, _SUMS = "state.safetensors", "values.json", "checksums.json"
_KEPT = 2  # checkpoints of a training
_TRAININGS = 4  # trainings that were killed and not resumed, whose checkpoints are kept
_SECONDS = 30.0  # between two checkpoints, at least
_SHARE = 0.05  # of the time that may go into checkpoints
_DAMAGED = ".damaged"


class StoppedError(TapestryError):
    """The training was asked to stop, and has written a checkpoint."""


class Checkpoints:
    """The checkpoints of one training.

    Args:
        folder: holds those of all trainings.
        fingerprint: all that determines the training, as values for JSON.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any]) -> None:
        text = json.dumps(fingerprint, sort_keys=True)
        self._all = folder
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._number = 0
        self._last = time.monotonic()
        self._pause = _SECONDS
        self._stop = False

    def due(self) -> bool:
        """Return whether it is time for a checkpoint."""
        return self._stop or time.monotonic() - self._last >= self._pause

    def write(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, and remove all but the last ones. A full disk is a warning: training can go on without.

        Raises:
            StoppedError: this process was asked to end.
        """
        started = time.monotonic()
        self._number += 1
        try:
            tensors, values = _flatten(state)
            with atomic_folder(self.folder / f"{self._number:08}") as temporary:
                save_file(tensors, temporary / _TENSORS)
                write_json(temporary / _VALUES, values)
                write_json(temporary / _SUMS, {name: _sha256(temporary / name) for name in (_TENSORS, _VALUES)})
        except OSError as error:
            print(f"train: no checkpoint: {error}; training goes on", file=sys.stderr)
        else:
            for old in self._written()[:-_KEPT]:
                shutil.rmtree(old, ignore_errors=True)
            self._remove_other_trainings()
        self._last = time.monotonic()
        self._pause = max(_SECONDS, (self._last - started) / _SHARE)
        if self._stop:
            raise StoppedError("ended by SIGTERM; the next `dvc repro` goes on from a checkpoint")

    def read_latest(self) -> dict[str, Any] | None:
        """Read the last checkpoint that is whole; None if there is none. Damaged ones are set aside, with a warning."""
        for folder in reversed(self._written()):
            self._number = max(self._number, int(folder.name))
            try:
                sums = json.loads((folder / _SUMS).read_text(encoding="utf-8"))
                if sums != {name: _sha256(folder / name) for name in (_TENSORS, _VALUES)}:
                    raise ValueError("its checksums differ")
                values = json.loads((folder / _VALUES).read_text(encoding="utf-8"))
                return _tree(load_file(folder / _TENSORS), values)
            except (OSError, ValueError) as error:
                aside = folder.with_name(folder.name + _DAMAGED)
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
                print(f"train: {aside}: a damaged checkpoint ({error}); the one before it is used", file=sys.stderr)
        return None

    def remove(self) -> None:
        """Remove all checkpoints of this training."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def stopping_at_sigterm(self) -> Iterator[None]:
        """In this context, SIGTERM makes the training write a checkpoint after its step, and end."""

        def stop(_signal: int, _frame: FrameType | None) -> None:
            self._stop = True

        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _written(self) -> list[Path]:
        """Return the folders of this training's checkpoints, the oldest first."""
        return sorted(path for path in self.folder.glob("*") if path.name.isdecimal())

    def _remove_other_trainings(self) -> None:
        changed = {}
        for other in self._all.iterdir():
            with suppress(FileNotFoundError):  # its training has just ended
                if other.is_dir() and other != self.folder:
                    changed[other] = other.stat().st_mtime
        for old in sorted(changed, key=changed.__getitem__)[: -(_TRAININGS - 1)]:
            shutil.rmtree(old, ignore_errors=True)


def _flatten(tree: Mapping[str, Any], path: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split a tree into its tensors and its other values, by path: keys joined by "/"."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{path}{key}"
        if isinstance(value, Tensor):
            tensors[name] = value.detach().cpu().contiguous()
        elif isinstance(value, Mapping) and _has_tensors(value):
            inner_tensors, inner_values = _flatten(value, f"{name}/")
            tensors |= inner_tensors
            values |= inner_values
        else:
            values[name] = value
    return tensors, values


def _has_tensors(tree: Mapping[str, Any]) -> bool:
    return any(isinstance(x, Tensor) or (isinstance(x, Mapping) and _has_tensors(x)) for x in tree.values())


def _tree(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree of which `_flatten` made tensors and values. A dictionary without entries is a value."""
    tree: dict[str, Any] = {}
    for name, value in {**tensors, **values}.items():
        *parents, last = name.split("/")
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return tree


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
