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
from tapestry.core.errors import TapestryError, one_line
from tapestry.core.failures import reported_errors
from tapestry.core.settings import load_section
from tapestry.core.yaml_file import read_yaml
from tapestry.ingest.settings import IngestSettings
from tapestry.sequences.reader import read_sequences
from tapestry.sessionize.settings import SessionizeSettings
from tapestry.studies.data import make_sequences
from tapestry.studies.published import compare_with_published, read_published
from tapestry.studies.results import print_table, read_csv, read_trials, short_figure
from tapestry.studies.trials import run_recipe


@dataclass(frozen=True)
class Protocol:
    """A folder of benchmarks/protocols and its commands."""

    folder: Path
    """The folder. The params file of a data set is SET.yaml there."""
    model: str
    """The name of the paper's model, for the head of the tables."""
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
        """Print the README's tables from results.csv: one a recipe."""
        rows = read_csv(self.folder / "results.csv")
        for recipe in dict.fromkeys(row["recipe"] for row in rows):
            lines = []
            for row in (row for row in rows if row["recipe"] == recipe):
                change, low, high = (f"{100 * float(row[key]):+.1f}" for key in ("change", "low", "high"))
                figures = (_with_deviation(row, key) for key in ("published", "ours"))
                lines.append([row["domain"], _label(row["metric"]), *figures, f"{change} [{low}, {high}]"])
            print_table([f"`{recipe}`", "", self.model, "ours", "change, %"], lines)

    def run(self, arguments: Sequence[str]) -> None:
        """Run the command that the arguments name; print a TapestryError as one line, and exit.

        Raises:
            SystemExit: the command failed.
        """
        commands: dict[str, Callable[..., None]] = {
            "fetch": self.fetch,
            "data": self.data,
            "train": self.train,
            "results": self.results,
            "show": self.show,
        }
        with reported_errors(one_line(" ".join(arguments)) or self.folder.name):
            if not arguments or arguments[0] not in commands:
                raise TapestryError(f"a command is needed, one of {', '.join(commands)}")
            commands[arguments[0]](*arguments[1:])


def write_raw_files(columns: Sequence[str], rows: Mapping[str, Iterable[Sequence[Any]]], folder: Path) -> None:
    """Write a CSV file for each domain of {domain: rows}, with these columns, to `folder`, atomically."""
    with atomic_folder(folder) as temporary:
        for domain, of_domain in rows.items():
            with (temporary / f"{domain}.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([columns, *of_domain])


def _with_deviation(row: Mapping[str, str], key: str) -> str:
    """Format a figure with its standard deviation, as .1234 ± .0012; without ± where it isn't known."""
    deviation = row[f"{key}_sd"]
    return short_figure(row[key]) + (f" ± {short_figure(deviation)}" if deviation else "")


def _label(metric: str) -> str:
    """`hr_10_of_999` → `HR@10`."""
    return metric.partition("_of_")[0].upper().replace("_", "@")
