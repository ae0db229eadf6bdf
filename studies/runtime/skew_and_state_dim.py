"""Times for the studies of skew and of the width of a state: skew_and_state_dim.py skew | state_dim | show.

They are measured here, since they want a machine that computes nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from attention import WIDTH, contender
from harness import interleaved, machine
from workloads import model_settings, random_batch, random_sequences, shares, train_settings, trainer_of

from tapestry.core.atomic import write_csv
from tapestry.core.yaml_file import read_yaml
from tapestry.model.attention import choose_kernel
from tapestry.model.device import choose_device, make_deterministic
from tapestry.studies.command import run_command
from tapestry.studies.results import print_table, read_csv

HERE = Path(__file__).resolve().parent
PARAMS = read_yaml(HERE / "params.yaml")
DOMAINS = 5  # of the study of skew
# As in the study of the width of a state: 2,500 items, 128 histories a step, most of 24 positions or fewer.
ITEMS, USERS, LENGTH = 2_500, 128, 24


def skew() -> None:
    """Time attention within five domains and over whole histories, by length and by the largest domain's share."""
    device = choose_device("auto")
    make_deterministic(7, PARAMS["threads"])
    kernel = choose_kernel("auto", device, WIDTH)
    rows: list[dict[str, Any]] = []
    for length, largest in product(PARAMS["lengths"], PARAMS["skew"]):
        share = shares(DOMAINS, largest)
        batch = random_batch(length, share)
        within, whole = (contender(batch, kernel, intra, device, DOMAINS) for intra in (True, False))
        seconds = interleaved({"ours": within, "other": whole}, PARAMS["rounds"], f"S={length} {largest}")
        delta, ratio = float((share**2).sum()), seconds["other"] / seconds["ours"]
        figures = {"delta": delta, "ratio": ratio, "of_ideal": ratio * delta}
        rows.append({"length": length, "largest_share": largest} | {key: round(x, 3) for key, x in figures.items()})
    write_csv(HERE / "skew.csv", [row | {"machine": machine()} for row in rows])


def state_dim() -> None:
    """Time a training step of the paper's model by the number of domains and the width of a state."""
    rows: list[dict[str, Any]] = []
    for domains in PARAMS["state_dim"]["domains"]:
        sequences = random_sequences(LENGTH, USERS, shares(domains), ITEMS)
        settings = train_settings(batch_users=USERS, negatives=4096, threads=PARAMS["threads"])
        contenders: dict[str, Callable[[], object]] = {}
        for width in PARAMS["state_dim"]["widths"]:
            trainer = trainer_of(sequences, model_settings(True, window=64, state_dim=width), settings)
            contenders[str(width)] = lambda trainer=trainer: trainer.run("step")  # type: ignore[misc]
        seconds = interleaved(contenders, PARAMS["rounds"], f"D={domains}")
        for width, found in seconds.items():
            relative = found / seconds[str(PARAMS["state_dim"]["against"])]
            rows.append(
                {"domains": domains, "state_dim": width, "step_s": round(found, 4), "relative": round(relative, 2)}
            )
    write_csv(HERE / "state_dim.csv", [row | {"machine": machine()} for row in rows])


def show() -> None:
    """Print the tables in the pages of both studies."""
    rows = read_csv(HERE / "skew.csv")
    lengths = list(dict.fromkeys(row["length"] for row in rows))
    of = {
        (row["largest_share"], row["length"]): f"{row['ratio']} ({100 * float(row['of_ideal']):.0f} %)" for row in rows
    }
    print_table(
        ["largest share", "δ", "1/δ", *(f"S = {int(length):,}" for length in lengths)],
        [
            [
                f"{100 * float(share):.0f} %",
                delta,
                f"{1 / float(delta):.2f}",
                *(of[share, length] for length in lengths),
            ]
            for share, delta in dict.fromkeys((row["largest_share"], row["delta"]) for row in rows)
        ],
    )
    rows = read_csv(HERE / "state_dim.csv")
    widths = list(dict.fromkeys(row["state_dim"] for row in rows))
    step = {(row["domains"], row["state_dim"]): f"{float(row['step_s']):.3f} s ({row['relative']})" for row in rows}
    print_table(
        ["a training step", *(f"C = {width}" for width in widths)],
        [
            [f"{domains} domains", *(step[domains, width] for width in widths)]
            for domains in dict.fromkeys(row["domains"] for row in rows)
        ],
    )


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {function.__name__: function for function in (skew, state_dim, show)}
    run_command(sys.argv[1:], commands)
