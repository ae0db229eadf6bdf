"""The report of one experiment: metrics and parameters → one self-contained HTML file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from tapestry.core.atomic import atomic_file
from tapestry.core.errors import TapestryError
from tapestry.report.figure_style import DARK, LIGHT, css
from tapestry.report.inputs import SHOWN_PARAMETERS, ReportInputs
from tapestry.report.origin import SLOT
from tapestry.report.plots import (
    Metrics,
    cutoff_curve,
    group_dots,
    length_bars,
    metric_label,
    training_curve,
    transition_map,
)

MODEL = "Tapestry"
NOTHING = "–"
NAMES = {
    "als": "ALS",
    "hstu_rectools": "RecTools HSTU",
    "item_knn": "Item-kNN",
    "recent_counts": "Recent counts",
    "recent_popularity": "Recent popularity",
    "sasrec": "RecTools SASRec",
    "same": "Same domain",
    "switch": "Other domain",
}
GROUPS = {
    "transition": "Domain of the item before",
    "tied": "Timestamp of the item before",
    "popularity": "Popularity of the target",
}
PARTS = ("rows_kept", "rows_quarantined", "rows_filtered")


class Cell(NamedTuple):
    """A cell of a table; `best`: it has the best value of its column."""

    text: str
    best: bool = False


class Section(NamedTuple):
    """Rows of a table under a title, which may be empty. A row is a name and its cells."""

    title: str
    rows: list[tuple[str, list[Cell]]]


class Table(NamedTuple):
    """A table: its label for screen readers, the names of its columns, and its rows by section."""

    label: str
    head: list[str]
    sections: list[Section]


def write_report(inputs: ReportInputs, path: Path) -> None:
    """Write the page to `path`, atomically."""
    page = render(inputs)
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")


def render(inputs: ReportInputs) -> str:
    """Return the page as HTML; the same inputs give the same text.

    Raises:
        TapestryError: there is no test target, or rows in aren't rows kept + quarantined + filtered.
    """
    whole, domains, test = inputs.data["all"], inputs.data["domain"], inputs.test
    for name, row in {"all": whole, **domains}.items():
        if row["rows_in"] != sum(row[part] for part in PARTS):
            raise TapestryError(f"metrics/data.json: {name}: the rows don't add up; run `dvc repro`")
    if test["all"]["n"] == 0:
        raise TapestryError("metrics/test.json: there is no test target; run `dvc repro`")
    shown = [*_pick(test["all"], "hr", 10, 100), *_pick(test["all"], "ndcg", 100), "mrr"]
    models = {MODEL: test["all"]} | {_name(name): row for name, row in test.get("baselines", {}).items()}
    groups = {"Domain": {_spaced(name): row for name, row in test["domain"].items()}} | {
        title: {_name(name): row for name, row in test[key].items()} for key, title in GROUPS.items()
    }
    validated, stop_by = inputs.train["best"], inputs.config["train"]["stop_by"]
    environment = Environment(
        loader=PackageLoader("tapestry.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        light=css(LIGHT),
        dark=css(DARK),
        whole=whole,
        domains=[_spaced(name) for name in domains],
        targets=test["all"]["n"],
        train=inputs.train,
        headline=_headline("Test figures", models, shown),
        sampled=_sampled(models, shown),
        verdicts=list(_verdicts(models, shown)),
        rows=_rows(whole, domains),
        reasons=_reasons(domains),
        sequences=_sequences(whole, domains),
        transition_map=transition_map(_spaced_map(inputs.data["transitions"])),
        length_bars=length_bars(inputs.data["lengths"]),
        examples=[_example(example) for example in inputs.examples],
        studies=inputs.studies,
        stopped_by=metric_label(stop_by),
        epochs=_epochs(inputs.train, stop_by),
        made=_made(inputs.parameters),
        origin=SLOT,
        parameters=[_parameters(key, values) for key, values in inputs.config.items() if isinstance(values, dict)],
        groups=_groups(test["all"], groups, shown),
        training_curve=training_curve(
            inputs.curve, [*_pick(validated, "ndcg", 10), *_pick(validated, "hr", 100)], int(validated["epoch"])
        ),
        cutoff_curve=cutoff_curve(models, _cutoffs(test["all"], "hr")),
        group_dots=group_dots(groups, [*_pick(test["all"], "hr", 100), "mrr"], test["all"]),
    )


def _cutoffs(metrics: Metrics, name: str) -> list[int]:
    matches = (re.fullmatch(rf"{name}_([0-9]+)", key) for key in metrics)
    return sorted(int(match[1]) for match in matches if match)


def _pick(metrics: Metrics, name: str, *wanted: int) -> list[str]:
    """Return the keys of `name` at the cut-offs `wanted`; a cut-off that is missing is replaced by the largest one."""
    ks = _cutoffs(metrics, name)
    return list(dict.fromkeys(f"{name}_{k if k in ks else ks[-1]}" for k in wanted))


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _name(key: str) -> str:
    return NAMES.get(key) or _spaced(key).capitalize()


def _share(metrics: Metrics, key: str) -> str:
    return f"{metrics[key]:.2%}" if key in metrics else NOTHING


def _sampled(models: Mapping[str, Metrics], shown: Sequence[str]) -> Table | None:
    """Make the table of the same figures among sampled negatives; None if there are none (`sampled_negatives`)."""
    negatives = next((key.partition("_of_")[2] for key in models[MODEL] if "_of_" in key), None)
    if negatives is None:
        return None
    return _headline(
        f"Test figures among {negatives} sampled negatives", models, [f"{k}_of_{negatives}" for k in shown]
    )


def _headline(title: str, models: Mapping[str, Metrics], shown: Sequence[str]) -> Table:
    best = {key: max(row[key] for row in models.values() if key in row) for key in shown}
    rows = [
        (name, [Cell(_share(row, key), row.get(key) == best[key]) for key in shown]) for name, row in models.items()
    ]
    return Table(title, ["", *map(metric_label, shown)], [Section("", rows)])


def _verdicts(models: Mapping[str, Metrics], shown: Sequence[str]) -> Iterable[tuple[str, bool]]:
    """Yield a sentence about each baseline, and whether the model beats it on every figure."""
    ours = models[MODEL]
    for name, theirs in list(models.items())[1:]:
        lost = [key for key in shown if key in theirs and ours[key] <= theirs[key]]
        if lost:
            figures = ", ".join(f"{metric_label(k)} ({_share(ours, k)} against {_share(theirs, k)})" for k in lost)
            yield f"{MODEL} does not beat {name} on {figures}.", False
        else:
            yield f"{MODEL} beats {name} on every figure of the table.", True


def _rows(whole: Mapping[str, Any], domains: Mapping[str, Any]) -> Table:
    def cells(row: Mapping[str, Any]) -> list[Cell]:
        return [Cell(f"{row[key]:,}") for key in ("rows_in", *PARTS)]

    return _by_domain("Rows by domain", ["Rows in", "= kept", "+ quarantined", "+ filtered"], whole, domains, cells)


def _sequences(whole: Mapping[str, Any], domains: Mapping[str, Any]) -> Table:
    def cells(row: Mapping[str, Any]) -> list[Cell]:
        counts = [f"{row[key]:,}" for key in ("users", "items", "interactions")]
        decimals = [f"{row[key]:.3f}" for key in ("delta", "transition_entropy")]
        return [Cell(text) for text in (*counts, *decimals, _share(row, "tied_pairs"), _share(row, "tied_switches"))]

    head = ["Users", "Items", "Interactions", "δ term", "Transition entropy", "Tied pairs", "Tied switches"]
    return _by_domain("Sequences by domain", head, whole, domains, cells)


def _by_domain(label: str, head: list[str], whole: Any, domains: Mapping[str, Any], cells: Any) -> Table:
    rows = [(_spaced(name), cells(row)) for name, row in domains.items()]
    return Table(label, ["Domain", *head], [Section("", rows), Section("", [("All", cells(whole))])])


def _spaced_map(transitions: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    return {
        _spaced(name): {_spaced(following): pairs for following, pairs in row.items()}
        for name, row in transitions.items()
    }


def _example(example: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the page shows of an example: items with the name of their domain, and the target marked."""
    target = example["target"]["item_id"]
    return {
        **example,
        "domain": _spaced(example["domain"]),
        "history": [(item["item_id"], _spaced(item["domain"])) for item in example["history"]],
        "target": target,
        "recommended": [(item["item_id"], item["item_id"] == target) for item in example["recommended"]],
    }


def _reasons(domains: Mapping[str, Any]) -> Table:
    """Make the table of rows lost by reason, one column a domain."""
    sections = []
    for outcome in ("quarantined", "filtered"):
        reasons = dict.fromkeys(reason for row in domains.values() for reason in row[outcome])
        counts = {reason: [row[outcome].get(reason, 0) for row in domains.values()] for reason in reasons}
        rows = [(reason, [Cell(f"{n:,}") for n in (*lost, sum(lost))]) for reason, lost in counts.items()]
        sections.append(Section(outcome.capitalize(), rows or [("none", [Cell("0")] * (len(domains) + 1))]))
    return Table("Rows lost by reason", ["Reason", *map(_spaced, domains), "All"], sections)


def _epochs(train: Mapping[str, Any], stop_by: str) -> Table:
    keys = [*_pick(train["best"], "hr", 10, 100), *_pick(train["best"], "ndcg", 10, 100), "mrr"]
    keys = list(dict.fromkeys([*keys, stop_by]))
    rows = [
        (name, [Cell(f"{row['epoch']:.0f}"), Cell(f"{row['loss']:.4f}"), *(Cell(_share(row, key)) for key in keys)])
        for name, row in (("Best epoch", train["best"]), ("Last epoch", train["final"]))
    ]
    return Table("Validation figures", ["", "Epoch", "Loss", *map(metric_label, keys)], [Section("", rows)])


def _made(parameters: Mapping[str, Any]) -> dict[str, str]:
    simulated = parameters["source.release"] == "synthetic"
    return {
        SHOWN_PARAMETERS[key]: str(value) for key, value in parameters.items() if simulated or key != "synthetic.seed"
    }


def _parameters(name: str, values: Mapping[str, Any]) -> Table:
    rows = [
        (key, [Cell(value if isinstance(value, str) else json.dumps(value))]) for key, value in sorted(values.items())
    ]
    return Table(f"Parameters of {name}", [name, ""], [Section("", rows)])


def _groups(overall: Metrics, groups: Mapping[str, Mapping[str, Metrics]], shown: Sequence[str]) -> Table:
    def cells(row: Metrics) -> list[Cell]:
        return [Cell(f"{row['n']:,}"), *(Cell(_share(row, key)) for key in shown)]

    sections = [Section(title, [(name, cells(row)) for name, row in rows.items()]) for title, rows in groups.items()]
    head = ["Targets", "n", *map(metric_label, shown)]
    return Table("Test figures by group", head, [Section("", [("All", cells(overall))]), *sections])
