"""The protocol of a published paper: its data, its targets and its figures, with our model in place of the paper's.

A protocol is a folder of benchmarks/protocols. benchmarks/protocols/README.md says what it holds. Its script makes a
`Protocol`, which has all commands but `fetch`:

    python SCRIPT fetch SET | data SET | train SET RECIPE SEED | results | show
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapestry.core.atomic import atomic_folder, write_csv
from tapestry.core.settings import load_section
from tapestry.core.yaml_file import read_yaml
from tapestry.ingest.settings import IngestSettings
from tapestry.sequences.reader import read_sequences
from tapestry.sessionize.settings import SessionizeSettings
from tapestry.studies.command import run_command
from tapestry.studies.data import make_sequences
from tapestry.studies.published import compare_with_published, read_published
from tapestry.studies.results import print_table, read_csv, read_trials, short_figure
from tapestry.studies.trials import run_recipe

COLUMNS_WITHOUT_TIMES = ("user_id", "item_id", "timestamp", "position", "split")
_FIRST_DAY, _DAY = 946_684_800, 86_400  # 2000-01-01 UTC, in seconds since 1970
_FIGURE = ("data", "domain", "metric", "method")  # columns that name a row of a recipe in results.csv


@dataclass(frozen=True)
class Protocol:
    """A folder of benchmarks/protocols and its commands."""

    folder: Path
    """The folder. The params file of a data set is SET.yaml there."""
    fetch: Callable[[str], None]
    """Downloads a data set, checks it, and writes a raw file for each domain to raw/SET (`write_raw_files`)."""

    def sets(self) -> list[str]:
        """Return the names of the data sets: those that have published figures."""
        return list(dict.fromkeys(row["data"] for row in read_csv(self.folder / "published.csv")))

    def data(self, name: str) -> None:
        """Make the sequences of a data set."""
        params = self.folder / f"{name}.yaml"
        domains = load_section(tuple[str, ...], "source.domains", params)
        with atomic_folder(self.folder / "data" / name) as folder:
            make_sequences(
                {domain: self.folder / "raw" / name / f"{domain}.csv" for domain in domains},
                load_section(IngestSettings, "ingest", params),
                load_section(SessionizeSettings, "sessionize", params),
                folder,
            )

    def train(self, name: str, recipe: str, seed: str) -> None:
        """Train a recipe on a data set, and rank the test targets."""
        run_recipe(
            read_sequences(self.folder / "data" / name / "sequences"),
            read_yaml(self.folder / "recipes.yaml")[recipe],
            int(seed),
            self.folder / f"{name}.yaml",
            self.folder / "runs" / name / recipe / seed,
        )

    def results(self) -> None:
        """Write results.csv: each published figure beside ours."""
        rows = []
        for name in self.sets():
            published = read_published(self.folder / "published.csv", name)
            for recipe in read_yaml(self.folder / "recipes.yaml"):
                tables = read_trials(self.folder / "runs" / name / recipe)
                rows += [{"data": name, "recipe": recipe, **row} for row in compare_with_published(tables, published)]
        write_csv(self.folder / "results.csv", rows)

    def show(self) -> None:
        """Print the README's tables from results.csv: one a recipe, with the published figures of each method."""
        rows = read_csv(self.folder / "results.csv")
        methods = list(dict.fromkeys(row["method"] for row in rows))
        for recipe in dict.fromkeys(row["recipe"] for row in rows):
            found = {tuple(row[key] for key in _FIGURE): row for row in rows if row["recipe"] == recipe}
            lines = []
            for data, domain, metric in dict.fromkeys(figure[:-1] for figure in found):
                of_methods = [found[data, domain, metric, method] for method in methods]
                published = (_with_deviation(row, "published") for row in of_methods)
                ours = _with_deviation(of_methods[0], "ours")
                lines.append([domain, _label(metric), *published, ours, *map(_change, of_methods)])
            heads = (f"change from {method}, %" for method in methods)
            print_table([f"`{recipe}`", "", *methods, "ours", *heads], lines)

    def run(self, arguments: Sequence[str]) -> None:
        """Run the command that the arguments name (`run_command`)."""
        commands: dict[str, Callable[..., None]] = {
            "fetch": self.fetch,
            "data": self.data,
            "train": self.train,
            "results": self.results,
            "show": self.show,
        }
        run_command(arguments, commands, self.folder.name)


def write_raw_files(columns: Sequence[str], rows: Mapping[str, Iterable[Sequence[Any]]], folder: Path) -> None:
    """Write a CSV file for each domain of {domain: rows}, with these columns, to `folder`, atomically."""
    with atomic_folder(folder) as temporary:
        for domain, of_domain in rows.items():
            with (temporary / f"{domain}.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([columns, *of_domain])


def rows_without_times(items_of: Mapping[str, Sequence[str]]) -> list[tuple[str, str, int, int, str]]:
    """Return a row for each interaction: user, item, time (s), position in the user's order, and split.

    They are of the columns `COLUMNS_WITHOUT_TIMES`. The times are made up, a day for each position from 2000-01-01 on.
    Of a user with at least three interactions the last one is for test and the one before it for validation; all
    others are for training.

    Args:
        items_of: the items of each user in time order, from a file without times.
    """
    rows = []
    for user, items in items_of.items():
        last = ["validation", "test"] if len(items) >= 3 else []
        splits = ["train"] * (len(items) - len(last)) + last
        for position, (item, split) in enumerate(zip(items, splits, strict=True)):
            rows.append((user, item, _FIRST_DAY + _DAY * position, position, split))
    return rows


def _with_deviation(row: Mapping[str, str], key: str) -> str:
    """Format a figure with its standard deviation, as .1234 ± .0012; without ± where it isn't known."""
    deviation = row[f"{key}_sd"]
    return short_figure(row[key]) + (f" ± {short_figure(deviation)}" if deviation else "")


def _change(row: Mapping[str, str]) -> str:
    """Format a change and its interval, in percent, as +1.2 [-0.3, +2.7]."""
    change, low, high = (f"{100 * float(row[key]):+.1f}" for key in ("change", "low", "high"))
    return f"{change} [{low}, {high}]"


def _label(metric: str) -> str:
    """`hr_10` → `HR@10`, `hr_10_of_999` → `HR@10, 999 negatives`."""
    name, _, negatives = metric.partition("_of_")
    return name.upper().replace("_", "@") + (f", {negatives} negatives" if negatives else "")
