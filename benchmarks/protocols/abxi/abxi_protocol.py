"""Stages of the protocol of ABXI: fetch SET | data SET | train SET RECIPE SEED | results | show.

Example: `python abxi_protocol.py train beauty_electronics recommended 1`. SET is beauty_electronics or food_kitchen.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

from tapestry.core.atomic import atomic_folder, write_csv
from tapestry.core.errors import TapestryError
from tapestry.core.failures import reported_errors
from tapestry.core.settings import load_section
from tapestry.core.yaml_file import read_yaml
from tapestry.ingest.settings import IngestSettings
from tapestry.sequences.reader import read_sequences
from tapestry.sessionize.settings import SessionizeSettings
from tapestry.source.download import download
from tapestry.studies.data import make_sequences
from tapestry.studies.published import compare_with_published, read_published
from tapestry.studies.results import print_table, read_csv, read_trials, short_figure
from tapestry.studies.trials import run_recipe

HERE = Path(__file__).resolve().parent
SETS = {  # name → name at its publishers, and the two domains
    "beauty_electronics": ("abe", ("Beauty", "Electronics")),
    "food_kitchen": ("afk", ("Food", "Kitchen")),
}
SOURCE = "https://raw.githubusercontent.com/DiMarzioBian/ABXI/72e52c9f85c740cb5dbdab11f7e5a70eb28ae00d/data"
COLUMNS = ("user_id", "item_id", "timestamp", "position")
METRICS = {"hr_5_of_999": "HR@5", "hr_10_of_999": "HR@10", "ndcg_10_of_999": "NDCG@10", "mrr_of_999": "MRR"}


def fetch(data: str) -> None:
    """Download a set from its publishers, check it, and write it as raw files: one a domain."""
    folder, domains = SETS[data]
    names = f"{folder}_50_preprocessed.txt", "map_item_50.txt", "map_user_50.txt"
    files = [HERE / "downloads" / folder / name for name in names]
    for name, file in zip(names, files, strict=True):
        download(f"{SOURCE}/{folder}/{name}", file, HERE / "checksums.json")
    sequences, items, users = files
    write_raw_files(sequences, items, users, domains, HERE / "raw" / data)


def write_raw_files(sequences: Path, items: Path, users: Path, domains: tuple[str, ...], folder: Path) -> None:
    """Write a CSV file for each domain, with Amazon's ids, times in seconds, and the published order of each user.

    Args:
        sequences: a line a user, in order: its number, then item|time (s) of each interaction.
        items: JSON, {item_id: [number, index of the domain]}.
        users: JSON, {user_id: number}.

    Raises:
        TapestryError: an interaction of a user or item that is in neither map.
    """
    item_of = {number: (item_id, domain) for item_id, (number, domain) in json.loads(items.read_text()).items()}
    user_of = {number: user_id for user_id, number in json.loads(users.read_text()).items()}
    rows: list[list[tuple[Any, ...]]] = [[] for _ in domains]
    for line in sequences.read_text().splitlines():
        user, *steps = line.split()
        for position, step in enumerate(steps):
            number, _, time = step.partition("|")
            if int(number) not in item_of or int(user) not in user_of:
                raise TapestryError(f"{sequences}: user {user}, item {number}: not in {users.name} or {items.name}")
            item_id, domain = item_of[int(number)]
            rows[domain].append((user_of[int(user)], item_id, time, position))
    with atomic_folder(folder) as temporary:
        for domain, of_domain in zip(domains, rows, strict=True):
            with (temporary / f"{domain}.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([COLUMNS, *of_domain])


def data(data: str) -> None:
    """Make the sequences of a set."""
    params = HERE / f"{data}.yaml"
    files = {
        domain: HERE / "raw" / data / f"{domain}.csv"
        for domain in load_section(tuple[str, ...], "source.domains", params)
    }
    with atomic_folder(HERE / "data" / data) as folder:
        make_sequences(
            files,
            load_section(IngestSettings, "ingest", params),
            load_section(SessionizeSettings, "sessionize", params),
            folder,
        )


def train(data: str, recipe: str, seed: str) -> None:
    """Train a recipe, and rank the test targets."""
    run_recipe(
        read_sequences(HERE / "data" / data / "sequences"),
        read_yaml(HERE / "recipes.yaml")[recipe],
        int(seed),
        HERE / f"{data}.yaml",
        HERE / "runs" / data / recipe / seed,
    )


def results() -> None:
    """Write results.csv: each published figure beside ours."""
    rows = []
    for name in SETS:
        published = read_published(HERE / "published.csv", name)
        for recipe in read_yaml(HERE / "recipes.yaml"):
            tables = read_trials(HERE / "runs" / name / recipe)
            rows += [{"data": name, "recipe": recipe, **row} for row in compare_with_published(tables, published)]
    write_csv(HERE / "results.csv", rows)


def show() -> None:
    """Print the README's tables from results.csv."""
    rows = read_csv(HERE / "results.csv")
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        lines = []
        for row in rows:
            if row["recipe"] == recipe:
                change, low, high = (f"{100 * float(row[key]):+.1f}" for key in ("change", "low", "high"))
                figures = [
                    f"{short_figure(row[key])} ± {short_figure(row[f'{key}_sd'])}" for key in ("published", "ours")
                ]
                lines.append([row["domain"], METRICS[row["metric"]], *figures, f"{change} [{low}, {high}]"])
        print_table([f"`{recipe}`", "", "ABXI", "ours", "change, %"], lines)


if __name__ == "__main__":
    commands = {function.__name__: function for function in (fetch, data, train, results, show)}
    with reported_errors(" ".join(sys.argv[1:])):
        commands[sys.argv[1]](*sys.argv[2:])
