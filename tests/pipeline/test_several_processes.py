"""`train.launcher: torchrun` and `evaluate.processes`: the stages in two processes, and what is told when one fails."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from checkouts import environment, set_parameters
from tiny_checkout import run, runs_of, sync

TRAIN = ["python", "stages/run.py", "train"]
LONG = {"train.epochs": 300, "train.patience": 300}


@pytest.fixture
def checkout(reproduced: Path, tmp_path: Path) -> Path:
    copy: Path = shutil.copytree(reproduced, tmp_path / "checkout", symlinks=True)
    set_parameters(copy, {"train.launcher": "torchrun", "train.processes": 2, "evaluate.processes": 2})
    return copy


def start(checkout: Path, command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=checkout, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    while not process.stdout.readline().startswith(line):
        assert process.poll() is None


def process_of_rank(rank: int, checkout: Path) -> int:
    """Return the process of this rank that torchrun has started in the checkout."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                variables = (folder / "environ").read_bytes().split(b"\0")
                here = (folder / "cwd").resolve() == checkout.resolve()
            except OSError:  # it has just ended
                continue
            if here and f"RANK={rank}".encode() in variables:
                return int(folder.name)
    raise AssertionError(f"no process of rank {rank}")


def test_two_processes_train_one_model_and_evaluate_it_exactly_as_one_does(checkout: Path) -> None:
    set_parameters(checkout, {"model.recent_weight": 0.07, "model.neighbour_weight": 0.25})
    before = len(runs_of(checkout, "train"))
    output = run(TRAIN, checkout)
    assert [line.partition(":")[0] for line in output.splitlines()] == ["epoch 1", "epoch 2"]
    run(["python", "stages/run.py", "evaluate"], checkout)
    by_two = pq.read_table(checkout / "metrics/ranks.parquet")
    set_parameters(checkout, {"evaluate.processes": 1})
    run(["python", "stages/run.py", "evaluate"], checkout)
    assert by_two.equals(pq.read_table(checkout / "metrics/ranks.parquet"))
    set_parameters(checkout, {"evaluate.processes": 2, "evaluate.item_table": "sharded"})
    run(["python", "stages/run.py", "evaluate"], checkout)
    by_shards = pq.read_table(checkout / "metrics/ranks.parquet")
    assert by_shards.drop(["rank"]).equals(by_two.drop(["rank"]))
    assert np.mean(by_shards["rank"].to_numpy() != by_two["rank"].to_numpy()) < 0.02  # almost equal scores
    sync(checkout)
    assert len(runs_of(checkout, "train")) == before + 1  # the first process alone logs


def test_a_stopped_training_of_two_processes_goes_on_in_one(checkout: Path) -> None:
    set_parameters(checkout, LONG)
    with start(checkout, TRAIN) as process:
        wait_for(process, "epoch 3:")
        process.terminate()
        _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.splitlines()[-1] == "train: error: ended by SIGTERM; the next `dvc repro` goes on from a checkpoint"
    set_parameters(checkout, {"train.launcher": "none", "train.processes": 1})
    with start(checkout, TRAIN) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("continues a checkpoint: ")
        process.kill()


def test_a_killed_process_ends_the_others_and_is_named(checkout: Path) -> None:
    set_parameters(checkout, LONG)
    with start(checkout, TRAIN) as process:
        wait_for(process, "epoch 2:")
        os.kill(process_of_rank(1, checkout), signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "train: error: process 1: Signal 9 (SIGKILL) received by PID" in errors.splitlines()[-1]


def test_an_error_of_one_process_is_told_once_with_its_traceback(checkout: Path) -> None:
    stage = checkout / "stages/train.py"
    broken = '        if processes.rank == 1:\n            raise ValueError("broken here")\n'
    stage.write_text(stage.read_text().replace("        require_same(", f"{broken}        require_same("))
    with start(checkout, TRAIN) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.count("Traceback") == 1
    assert "process 1:" in errors.splitlines()
    assert errors.splitlines()[-1] == "train: error: process 1 failed: ValueError: broken here"


def test_a_taken_port_and_a_rendezvous_without_a_first_machine_are_refused(checkout: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        variables = {"PET_NNODES": "1", "PET_MASTER_PORT": str(taken.getsockname()[1])}
        done = subprocess.run(TRAIN, cwd=checkout, env=environment() | variables, capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "train: error: torchrun can't listen or connect: " in done.stderr
    variables = {"PET_RDZV_BACKEND": "c10d"}
    done = subprocess.run(TRAIN, cwd=checkout, env=environment() | variables, capture_output=True, text=True)
    assert done.stderr.startswith("train: error: PET_RDZV_BACKEND: ")


def test_another_number_of_processes_than_the_parameters_say_is_refused(checkout: Path) -> None:
    with start(checkout, ["torchrun", "--standalone", "--nproc-per-node=1", *TRAIN[1:]]) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "torchrun started 1 processes here, but the parameters say 2" in errors
