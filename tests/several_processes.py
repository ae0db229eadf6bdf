"""Runs a function in several processes that have joined torch's process group, and returns what each of them returns.

The functions are here, because a new process must be able to import them.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from small import WHOLE_MODEL, random_sequences

from tapestry.core.errors import TapestryError
from tapestry.core.splits import TEST, VALIDATION
from tapestry.evaluation.metrics import ranking_metrics
from tapestry.evaluation.scoring import rank_by_model
from tapestry.model.device import make_deterministic
from tapestry.model.network import Recommender
from tapestry.parallel import processes as module
from tapestry.parallel.launch import require_same
from tapestry.parallel.processes import ALONE, Processes
from tapestry.parallel.shard import WHOLE
from tapestry.sequences.cooccurrence import neighbours_of
from tapestry.sequences.reader import Sequences
from tapestry.training.checkpoints import Checkpoints
from tapestry.training.loop import Training, train
from tapestry.training.settings import TrainSettings
from tapestry.training.trainer import Trainer

MODEL = dataclasses.replace(WHOLE_MODEL, dropout=0.0)
_SECONDS = 120  # for which a test waits


def in_processes(
    count: int, function: Callable[..., Any], *arguments: Any, timeout: timedelta = timedelta(seconds=60)
) -> list[Any]:
    """Call function(processes, *arguments) in `count` processes; return the results by rank.

    Args:
        timeout: for which a process waits for the others.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["several_processes"])
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe() for _ in range(count)]
        started = [
            context.Process(target=_run, args=(rank, count, timeout, f"{folder}/store", pipe, function, arguments))
            for rank, (_, pipe) in enumerate(pipes)
        ]
        try:
            for process in started:
                process.start()
            results = []
            for rank, (pipe, _) in enumerate(pipes):
                assert pipe.poll(_SECONDS), f"process {rank} of {count} has not answered"
                kind, result = pipe.recv()
                assert kind == "result", f"process {rank} of {count}:\n{result}"
                results.append(result)
            return results
        finally:
            for process in started:
                process.kill()


def _run(
    rank: int,
    count: int,
    timeout: timedelta,
    store: str,
    pipe: Connection,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=timeout)
    try:
        pipe.send(("result", function(Processes.of_group(timeout), *arguments)))
    except BaseException:
        pipe.send(("error", traceback.format_exc()))
    pipe.recv()  # waits until it is killed, when all have answered


def steps_in_float64(processes: Processes, sequences: Sequences, settings: TrainSettings) -> dict[str, Any]:
    """Train two passes in float64, without dropout; return the losses and all weights."""
    make_deterministic(0, 1)
    model = Recommender(MODEL, sequences.items, len(sequences.domains), processes.shard).double()
    trainer = Trainer(model, sequences, settings, processes)
    passes = [trainer.run("") for _ in range(2)]
    return {
        "loss": [part.loss for part in passes],
        "tokens": [part.tokens for part in passes],
        "tape_norm": [part.tape_norm for part in passes],
        "item": processes.gather_rows(model.item.weight.detach(), model.items),
        **{name: weight for name, weight in model.state_dict().items() if name != "item.weight"},
    }


class KilledError(Exception):
    """Stands for SIGKILL of all processes: nothing of the training runs after it."""


class KillingCheckpoints(Checkpoints):
    """Writes a checkpoint after every `every` steps, and is killed after a number of steps in all."""

    def __init__(self, folder: Path, every: int, steps: int, processes: Processes = ALONE) -> None:
        super().__init__(folder, {"same": 1}, processes)
        self._steps, self._every = steps, every

    def due(self) -> bool:
        self._steps -= 1
        if self._steps < 0:
            raise KilledError
        return self._steps % self._every == 0


def train_killed(
    processes: Processes, sequences: Sequences, settings: TrainSettings, dropout: float, folder: Path | None, steps: int
) -> dict[str, Any] | None:
    """Train, and return the curve and all weights; None if killed after so many steps. In `folder` are checkpoints."""
    model = dataclasses.replace(MODEL, dropout=dropout)
    targets = sequences.targets(VALIDATION)

    def validate(model: Recommender) -> dict[str, float]:
        return ranking_metrics(rank_by_model(model, sequences, targets, True, 8, processes).rank, [1, 10, 100])

    checkpoints = None if folder is None else KillingCheckpoints(folder, 3, steps, processes)
    try:
        training: Training = train(sequences, model, settings, validate, lambda epoch: None, checkpoints, processes)
    except KilledError:
        return None
    weights = {name: weight.numpy() for name, weight in training.model.state_dict().items()}
    return {"curve": [epoch.figures() for epoch in training.epochs], **weights}


def ranks_of_processes(processes: Processes, sequences: Sequences, sharded: bool) -> list[np.ndarray]:
    """Rank the test targets with an untrained model, each process with the whole of it or with its shard."""
    torch.manual_seed(0)
    shard = processes.shard if sharded else WHOLE
    model = Recommender(MODEL, sequences.items, len(sequences.domains), shard).double().eval()
    model.neighbours = neighbours_of(sequences)
    found = rank_by_model(model, sequences, sequences.targets(TEST), True, 5, processes)
    return [found.rank, found.candidates]


def item_weights(processes: Processes, items: int) -> torch.Tensor | None:
    """Return the initial item embedding of all processes, in the first of them."""
    torch.manual_seed(0)
    model = Recommender(MODEL, items, 3, processes.shard)
    assert model.item.weight.shape == (processes.shard.size(items), MODEL.width)
    return processes.gather_rows(model.item.weight.detach(), items)


def other_fingerprint(processes: Processes) -> str:
    """Return the message of a check in which one process has other parameters."""
    parameters = {"train.seed": 7, "train.epochs": 3 if processes.rank == 1 else 2}
    try:
        require_same(processes, {"parameters": parameters, "code": "abc"})
    except Exception as error:
        return str(error)
    return ""


def absent(processes: Processes) -> str:
    """Return the message for the first process, when another one never sends its part."""
    module._ROLL_CALL = timedelta(seconds=2)
    if processes.rank == 1:
        time.sleep(10)
        return ""
    try:
        with processes.naming_absent():
            processes.sum(1.0)
    except TapestryError as error:
        return str(error)
    return ""


def sequences_with_a_lone_last_batch() -> Sequences:
    """41 users, so that of steps of 8 users the last has one: some processes have no history in it."""
    return random_sequences(1, users=41, items=60)
