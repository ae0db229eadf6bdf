"""Checkpoints: the state of a training on disk, from which one that was killed goes on and ends in the same bytes.

A checkpoint is a folder that is written atomically:

    state.safetensors        tensors, by their path in the tree of the state
    rows-0-of-2.safetensors  those that have a row for each item: the shard of each process
    values.json              all other values, likewise
    checksums.json           SHA-256 of all these files

The folder of a training holds the last `_KEPT` checkpoints. Its name is a hash of all that determines the training:
parameters, data, code, packages and the processor's arithmetic. So a checkpoint never continues under others. The
number of processes is not among them: any number reads the shards of any other. All must see the same folder.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tapestry.core.atomic import atomic_folder, write_json
from tapestry.core.errors import TapestryError
from tapestry.model.network import ITEM_WEIGHT
from tapestry.parallel.item_rows import Rows
from tapestry.parallel.processes import ALONE, Processes
from tapestry.parallel.shard import Shard

_TENSORS, _VALUES, _SUMS = "state.safetensors", "values.json", "checksums.json"
_KEPT = 2  # checkpoints of a training
_TRAININGS = 4  # trainings that were killed and not resumed, whose checkpoints are kept
_SECONDS = 30.0  # between two checkpoints, at least
_SHARE = 0.02  # of the time that may go into checkpoints
_DAMAGED = ".damaged"
_ROWS = re.compile(r"rows-(\d+)-of-(\d+)\.safetensors")


class StoppedError(TapestryError):
    """The training was asked to stop, and has written a checkpoint."""


class Checkpoints:
    """The checkpoints of one training.

    Args:
        folder: holds those of all trainings.
        fingerprint: all that determines the training, as values for JSON.
        processes: those that train together. Each writes its shard; the first writes all else.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any], processes: Processes = ALONE) -> None:
        self._processes = processes
        text = json.dumps(fingerprint, sort_keys=True)
        self._all = folder
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._number = 0
        self._last = time.monotonic()
        self._pause = _SECONDS
        self._stop = False

    def due(self) -> bool:
        """Return whether it is time for a checkpoint: the first process's time, or one of them was asked to stop."""
        timed = self._processes.first and time.monotonic() - self._last >= self._pause
        return self._processes.any(self._stop or timed)

    def write(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, and remove all but the last ones. A full disk is a warning: training can go on without.

        Raises:
            StoppedError: this process was asked to end.
        """
        started = time.monotonic()
        self._number += 1
        try:
            self._write_files(state)
        except OSError as error:
            if self._processes.first:
                print(f"train: no checkpoint: {error}; training goes on", file=sys.stderr)
        else:
            if self._processes.first:
                for old in self._written()[:-_KEPT]:
                    shutil.rmtree(old, ignore_errors=True)
                self._remove_other_trainings()
        self._last = time.monotonic()
        self._pause = max(_SECONDS, (self._last - started) / _SHARE)
        if self._processes.any(self._stop):
            raise StoppedError("ended by SIGTERM; the next `dvc repro` goes on from a checkpoint")

    def _write_files(self, state: Mapping[str, Any]) -> None:
        """Write the files of a checkpoint, all or none.

        Raises:
            OSError: a process couldn't write its file.
        """
        processes = self._processes
        tensors, values = _flatten(state)
        rows = {name: x.tensor.detach().cpu().contiguous() for name, x in values.items() if isinstance(x, Rows)}
        values = {name: x for name, x in values.items() if name not in rows}
        total = int(processes.sum(len(next(iter(rows.values()))) if rows else 0))
        with ExitStack() as stack:
            opened: str | OSError = ""
            if processes.first:
                try:
                    opened = str(stack.enter_context(atomic_folder(self.folder / f"{self._number:08}")))
                except OSError as error:
                    opened = error
            opened = processes.share(opened)
            if isinstance(opened, OSError):
                raise opened
            temporary = Path(opened)
            name = f"rows-{processes.rank}-of-{processes.count}.safetensors"
            wrong: OSError | None = None
            sums = {}
            try:
                save_file(rows, temporary / name, {"rows": str(total)})
                sums = {name: _sha256(temporary / name)}
                if processes.first:
                    save_file(tensors, temporary / _TENSORS)
                    write_json(temporary / _VALUES, values)
                    sums |= {name: _sha256(temporary / name) for name in (_TENSORS, _VALUES)}
            except (OSError, SafetensorError) as error:
                wrong = error if isinstance(error, OSError) else OSError(str(error))
            for others_sums, others_error in processes.gather((sums, wrong)):
                if others_error is not None:
                    raise others_error
                sums |= others_sums
            if processes.first:
                write_json(temporary / _SUMS, sums)

    def read_latest(self) -> dict[str, Any] | None:
        """Read the last checkpoint that is whole; None if there is none. Damaged ones are set aside, with a warning.

        Raises:
            TapestryError: this process doesn't see the folder that the first one reads.
        """
        found = self._processes.share(self._latest() if self._processes.first else None)
        if found is None:
            return None
        self._number = int(found.name)
        try:
            values = json.loads((found / _VALUES).read_text(encoding="utf-8"))
            rows = _read_rows(found, self._processes.shard)
            return _tree({**load_file(found / _TENSORS), **rows}, values)
        except OSError as error:
            raise TapestryError(
                f"{found}: process {self._processes.rank} can't read the checkpoint ({error}); the folder checkpoints "
                "must be on a disk that all machines share"
            ) from error

    def _latest(self) -> Path | None:
        """Return the folder of the last checkpoint that is whole; set damaged ones aside."""
        for folder in reversed(self._written()):
            try:
                sums = json.loads((folder / _SUMS).read_text(encoding="utf-8"))
                if not {_TENSORS, _VALUES} <= sums.keys() or len(sums) != 2 + _parts(sums):
                    raise ValueError("a file is missing")
                if sums != {name: _sha256(folder / name) for name in sums}:
                    raise ValueError("its checksums differ")
                json.loads((folder / _VALUES).read_text(encoding="utf-8"))
                return folder
            except (OSError, ValueError, AttributeError) as error:
                aside = folder.with_name(folder.name + _DAMAGED)
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
                print(f"train: {aside}: a damaged checkpoint ({error}); the one before it is used", file=sys.stderr)
        return None

    def remove(self) -> None:
        """Remove all checkpoints of this training."""
        if self._processes.first:
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


def weights_state(weights: Mapping[str, Tensor]) -> dict[str, Tensor | Rows]:
    """Return a model's weights as a part of a checkpoint's state: each process has rows of the item embedding."""
    return {name: Rows(x) if name == ITEM_WEIGHT else x for name, x in weights.items()}


def _parts(names: Sequence[str] | Mapping[str, Any]) -> int:
    """Return how many shards a checkpoint has.

    Raises:
        ValueError: one is missing.
    """
    found = [match for match in map(_ROWS.fullmatch, names) if match]
    if not found or {int(match[1]) for match in found} != set(range(int(found[0][2]))):
        raise ValueError("the rows of a process are missing")
    return len(found)


def _read_rows(folder: Path, shard: Shard) -> dict[str, Tensor]:
    """Read the rows of a shard from those of the processes that wrote the checkpoint, one file at a time."""
    files = [path for path in folder.iterdir() if _ROWS.fullmatch(path.name)]
    if len(files) == 1 and shard.count == 1:
        return load_file(files[0])
    tables: dict[str, Tensor] = {}
    for written in range(len(files)):
        with safe_open(folder / f"rows-{written}-of-{len(files)}.safetensors", "pt") as file:
            total = int(file.metadata()["rows"])
            rows = torch.arange(written, total, len(files))  # of the whole table
            mine = rows[shard.holds(rows)]
            for name in file.keys():  # noqa: SIM118
                part = file.get_tensor(name)[Shard(written, len(files)).local(mine)]
                table = tables.setdefault(name, part.new_empty((shard.size(total), *part.shape[1:])))
                table[shard.local(mine)] = part
    return tables


def _flatten(tree: Mapping[str, Any], path: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split a tree into its tensors and its other values, `Rows` among them, by path: keys joined by "/"."""
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
    return any(isinstance(x, Tensor | Rows) or (isinstance(x, Mapping) and _has_tensors(x)) for x in tree.values())


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
