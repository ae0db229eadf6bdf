"""Stages of the study: runtime_study.py measure LENGTH | results | show."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attention import HEADS, WIDTH, contender
from harness import interleaved, machine
from workloads import TOKENS, model_settings, random_batch, random_sequences, shares, train_settings, trainer_of

from tapestry.core.atomic import write_csv, write_json
from tapestry.core.failures import reported_errors
from tapestry.core.yaml_file import read_yaml
from tapestry.model.attention import choose_kernel
from tapestry.model.device import choose_device, make_deterministic
from tapestry.studies.pictures import draw
from tapestry.studies.results import print_table, read_csv

HERE = Path(__file__).resolve().parent
PARAMS = HERE / "params.yaml"
ITEMS = 50_000


def measure(length_text: str) -> None:
    """Time all cases of one length. measured/LENGTH.json has two rows a case: attention, and a whole training step."""
    params = read_yaml(PARAMS)
    length = int(length_text)
    device = choose_device("auto")
    make_deterministic(7, params["threads"])
    rows: list[dict[str, Any]] = []
    for domains, largest in product(params["domains"], params["largest_share"]):
        share = shares(domains, largest)
        case = {
            "length": length,
            "domains": domains,
            "largest_share": round(float(share.max()), 4),
            "ideal": round(1 / float((share**2).sum()), 4),
        }
        name = f"S={length} D={domains} {share.max():.2f}"
        contenders = {kind: _attention(length, share, kind == "ours", device) for kind in ("ours", "other")}
        steps = {kind: _step(length, share, kind == "ours", params["threads"]) for kind in ("ours", "other")}
        for recipe, contending in (("attention", contenders), ("step", steps)):
            seconds = interleaved(contending, params["rounds"], f"{recipe} {name}")
            ratio = seconds["other"] / seconds["ours"]
            ours, other = (round(seconds[kind], 4) for kind in ("ours", "other"))
            rows.append({**case, "recipe": recipe, "ours_s": ours, "other_s": other, "ratio": round(ratio, 3)})
    write_json(HERE / f"measured/{length}.json", [row | {"machine": machine()} for row in rows])


def results() -> None:
    """Write results.csv, of all lengths, and picture.svg."""
    params = read_yaml(PARAMS)
    measured = [json.loads((HERE / f"measured/{length}.json").read_text()) for length in params["lengths"]]
    write_csv(HERE / "results.csv", [row for rows in measured for row in rows])
    draw(params["picture"], read_csv(HERE / "results.csv"), "", HERE / "picture.svg")


def _attention(length: int, share: np.ndarray, intra: bool, device: torch.device) -> Callable[[], object]:
    """Return a forward and backward pass of attention, within domains or over whole histories."""
    kernel = choose_kernel("auto", device, WIDTH)
    return contender(random_batch(length, share), kernel, intra, device, len(share))


def _step(length: int, share: np.ndarray, whole: bool, threads: int) -> Callable[[], object]:
    """Return a training step of the paper's model or of HSTU + ALiBi, of about `TOKENS` tokens."""
    users = TOKENS // length
    sequences = random_sequences(length, users, share, ITEMS)
    width = HEADS * WIDTH  # WIDTH is that of a head
    model = model_settings(whole, window=length, width=width, state_dim=width, heads=HEADS)
    trainer = trainer_of(sequences, model, train_settings(batch_users=users, negatives=512, threads=threads))
    return lambda: trainer.run("step")


def show() -> None:
    """Print the README's table from results.csv."""
    rows = read_csv(HERE / "results.csv")
    of = {(row["recipe"], row["length"], row["domains"], row["largest_share"]): row["ratio"] for row in rows}
    lengths = list(dict.fromkeys(row["length"] for row in rows))
    cases = dict.fromkeys((row["domains"], row["largest_share"], row["ideal"]) for row in rows)
    head = ["domains", "largest share", "1/δ", *(f"{int(length):,}" for length in lengths)]
    for recipe, title in (("attention", "attention"), ("step", "training step")):
        print_table(
            [f"{title}: {head[0]}", *head[1:]],
            [
                [domains, f"{float(share):.2f}", f"{float(ideal):.1f}"]
                + [f"{float(of[recipe, length, domains, share]):.2f}" for length in lengths]
                for domains, share, ideal in cases
            ],
        )


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {function.__name__: function for function in (measure, results, show)}
    with reported_errors(" ".join(sys.argv[1:])):
        commands[sys.argv[1]](*sys.argv[2:])
