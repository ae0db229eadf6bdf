"""What more processes bring, and what they cost: python scaling.py

Speed: training steps of one process with one thread against two processes with one thread each, which share every step;
width 128, two layers. Traffic: the rows of the item embedding that a process sends in a step, with their gradients.
Memory: the peak of each process in a training of one step and its end (validation, best
weights, the whole model in the first process), with a table of ten million items of width 64. Each figure is of new
processes, started by torchrun as `train.launcher: torchrun` does; contenders take turns.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from harness import peak_mib, report
from torch import Tensor
from workloads import model_settings, random_sequences, shares, train_settings

from tapestry.model.device import make_deterministic
from tapestry.model.network import Recommender
from tapestry.parallel.launch import joined, launched
from tapestry.parallel.processes import Processes
from tapestry.training.loop import Epoch, train
from tapestry.training.trainer import Trainer

ROUNDS, STEPS = 3, 6
SPEED = {"length": 256, "users": 64, "items": 50_000, "width": 128}
MEMORY = {"length": 20, "users": 64, "items": 10_000_000, "width": 64}


class Counting(Processes):
    """Counts the bytes of item rows that this process sends to others."""

    sent_bytes = 0

    def exchange(self, rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        Counting.sent_bytes += rows[0].nbytes * (sum(sent) - sent[self.rank]) if len(rows) else 0
        return super().exchange(rows, sent, received)


def speed(processes: Processes) -> dict[str, float]:
    """Return the seconds of a training step, the median of all but the first one, and the bytes sent."""
    trainer = trainer_of(Counting(processes.rank, processes.count))
    seconds, last = [], time.perf_counter()

    def after_step() -> None:
        nonlocal last
        now = time.perf_counter()
        seconds.append(now - last)
        last = now

    trainer.run("steps", after_step)
    return {"seconds": statistics.median(seconds[1:]), "sent_mib": Counting.sent_bytes / (STEPS + 2) / 2**20}


def trainer_of(processes: Processes) -> Trainer:
    sequences = random_sequences(SPEED["length"], SPEED["users"] * (STEPS + 2), shares(5), SPEED["items"])
    model = model_settings(True, window=SPEED["length"], width=SPEED["width"], state_dim=SPEED["width"], dropout=0.0)
    settings = train_settings(batch_users=SPEED["users"], negatives=512, threads=1, device="cpu", epochs=1)
    make_deterministic(settings.seed, settings.threads)
    recommender = Recommender(model, sequences.items, len(sequences.domains), processes.shard)
    return Trainer(recommender, sequences, settings, processes)


def memory(processes: Processes) -> dict[str, float]:
    """Return the largest peak of the processes, and the smallest before the model was made."""
    torch.set_num_threads(1)
    sequences = random_sequences(MEMORY["length"], MEMORY["users"], shares(5), MEMORY["items"])
    before = peak_mib()
    settings = train_settings(batch_users=MEMORY["users"], negatives=512, threads=1, device="cpu", epochs=1)

    def validate(model: Recommender) -> dict[str, float]:
        return {"ndcg_10": 0.0, "hr_10": 0.0, "hr_100": 0.0, "mrr": 0.0}

    def nothing(_: Epoch) -> None:
        pass

    model = model_settings(True, width=MEMORY["width"])
    train(sequences, model, settings, validate, nothing, None, processes)
    return {"peak_mib": max(processes.gather(peak_mib())), "before_mib": max(processes.gather(before))}


def measured(what: str, count: int) -> dict[str, Any]:
    """Start `count` processes that measure, and return what the first of them has printed."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    done = subprocess.run(
        [*torchrun, __file__, what, str(count)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    steps: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for round_number in range(ROUNDS):
        for count in (1, 2) if round_number % 2 == 0 else (2, 1):
            steps[count].append(measured("speed", count))
    rows = []
    for count in (1, 2, 4):
        peak = measured("memory", count)
        row = {"processes": count, "peak of a process, MiB": peak["peak_mib"], "before the model": peak["before_mib"]}
        if count in steps:
            row["step, s"] = statistics.median(step["seconds"] for step in steps[count])
            row["sent a step, MiB"] = steps[count][0]["sent_mib"]
        rows.append(row)
    for row in rows:
        row["memory / one"] = row["peak of a process, MiB"] / rows[0]["peak of a process, MiB"]
        if "step, s" in row:
            row["one / step"] = rows[0]["step, s"] / row["step, s"]
    report(Path(__file__).stem, rows)


if __name__ == "__main__":
    if launched():
        with joined(torch.device("cpu"), int(sys.argv[2])) as joined_processes:
            found = {"speed": speed, "memory": memory}[sys.argv[1]](joined_processes)
            if joined_processes.first:
                print(json.dumps(found))
    else:
        main()
