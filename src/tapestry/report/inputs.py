"""What the report is made of: metrics, settings and parameters of one experiment, read from the files of its stages."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapestry.core.errors import TapestryError
from tapestry.core.yaml_file import read_yaml
from tapestry.report.plots import Metrics
from tapestry.report.studies import Study, read_studies

SHOWN_PARAMETERS = {
    "source.release": "Release",
    "sessionize.split": "Split",
    "train.seed": "Seed of training",
    "sessionize.seed": "Seed of the order of ties",
    "synthetic.seed": "Seed of the simulator",
}
"""Parameters under "How this was made", and their labels; the stage `report` of dvc.yaml lists the same ones."""


@dataclass(frozen=True)
class ReportInputs:
    """The inputs of the report, one field a file.

    `config` is models/config.json; `curve` has one mapping an epoch; `parameters` has those of `SHOWN_PARAMETERS`, by
    dotted name; `examples` is data/examples.json, see `tapestry.recommending.examples`; `studies` see
    `tapestry.report.studies`.
    """

    data: Mapping[str, Any]
    train: Mapping[str, Any]
    test: Mapping[str, Any]
    curve: Sequence[Metrics]
    config: Mapping[str, Any]
    parameters: Mapping[str, Any]
    examples: Sequence[Mapping[str, Any]]
    studies: Sequence[Study]


def read_inputs(metrics: Path, model: Path, parameters: Path, examples: Path, studies: Path) -> ReportInputs:
    """Read all inputs.

    Args:
        metrics: folder of data.json, train.json, test.json and curve.csv.
        model: folder of config.json.
        parameters, examples: params.yaml, and data/examples.json.
        studies: the folder of the studies.

    Raises:
        TapestryError: a file is missing or damaged, or a parameter is missing.
    """

    def read(path: Path) -> Any:
        return json.loads(path.read_text(encoding="utf-8"))

    chosen = _parameters_shown(parameters)
    try:
        with (metrics / "curve.csv").open(encoding="utf-8", newline="") as file:
            curve = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        figures = {name: read(metrics / f"{name}.json") for name in ("data", "train", "test")}
        return ReportInputs(
            curve=curve,
            config=read(model / "config.json"),
            parameters=chosen,
            examples=read(examples),
            studies=read_studies(studies),
            **figures,
        )
    except FileNotFoundError as error:
        raise TapestryError(f"{error.filename}: not there; run `dvc repro`") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise TapestryError(
            f"a file of {metrics} or {model}, or {examples}, is damaged ({error}); run `dvc repro`"
        ) from error


def _parameters_shown(path: Path) -> dict[str, Any]:
    """Read the parameters of `SHOWN_PARAMETERS`.

    The file isn't checked as a whole, or the report would depend on every setting.
    """
    values = read_yaml(path)
    found = {}
    for name in SHOWN_PARAMETERS:
        section, key = name.split(".")
        try:
            found[name] = values[section][key]
        except (KeyError, TypeError) as error:
            raise TapestryError(f"{path}: {name} is missing") from error
    return found
