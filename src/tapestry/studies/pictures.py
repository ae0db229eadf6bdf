"""The picture of a study: figures of recipes against a property of the data or of the recipe, as an SVG file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from tapestry.core.atomic import atomic_file
from tapestry.report.figure_style import (
    DASHES,
    INK,
    MARKERS,
    MUTED,
    SERIES,
    WIDTH,
    figure_style,
    figure_svg,
    panels,
    standalone_svg,
)

_HEIGHT = 3.6  # inches
_APART = 1.25  # least ratio of two labelled values of a logarithmic axis
Rows = Sequence[Mapping[str, str]]


def draw(picture: Mapping[str, Any], rows: Rows, against: str, path: Path) -> None:
    """Draw rows of results.csv as `picture` says, and write the SVG file.

    `picture` has: description. x: a column of the rows, or `recipe`, for a row of points a recipe. x_label. x_scale:
    linear (default) or log; y_scale likewise. lines: a column; its values are lines, by default the recipes. panels: a
    list of {y, label, kind, recipes}. kind is `mean`, or `change`: in %, against the study's recipe, with its interval.
    recipes: those drawn, by default all. names: of recipes, data sets or lines, where the picture has other ones.
    """
    with figure_style():
        figure = Figure(figsize=(WIDTH, picture.get("height", _HEIGHT)), layout="constrained")
        for axes, panel in zip(panels(figure, len(picture["panels"])), picture["panels"], strict=True):
            shown = [row for row in rows if row["recipe"] in panel.get("recipes", [row["recipe"]])]
            if panel["kind"] == "change":
                shown = [row for row in shown if row["recipe"] != against]
                (axes.axvline if picture["x"] == "recipe" else axes.axhline)(0, color=MUTED, linewidth=1)
            (_dots if picture["x"] == "recipe" else _lines)(axes, picture, panel, shown)
            axes.set_title(panel["label"])
        _add_legend(figure)
        study = path.resolve().parent.name  # a prefix of ids, which are then unique in a page of all studies
        svg = figure_svg(figure, study, picture["description"])
    with atomic_file(path) as temporary:
        temporary.write_text(standalone_svg(svg), encoding="utf-8")


def _add_legend(figure: Figure) -> None:
    """Add one legend below panels that have the same lines, else one in each panel with several."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if all(axes.get_legend_handles_labels()[1] == labels for axes in figure.axes):
        if len(labels) > 1:
            figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), labelcolor=INK)
        return
    for axes in figure.axes:
        if len(axes.get_legend_handles_labels()[1]) > 1:
            axes.legend(labelcolor=INK)


def _lines(axes: Axes, picture: Mapping[str, Any], panel: Mapping[str, Any], rows: Rows) -> None:
    """Draw a line a recipe (or a value of the column `lines`) over the column x."""
    column = picture.get("lines", "recipe")
    names = list(dict.fromkeys(row[column] for row in rows))
    for index, name in enumerate(names):
        of_name = sorted((row for row in rows if row[column] == name), key=lambda row: float(row[picture["x"]]))
        x = [float(row[picture["x"]]) for row in of_name]
        y, low, high = zip(*(_values(row, panel) for row in of_name), strict=True)
        style: dict[str, Any] = {
            "color": SERIES[index % 5],
            "marker": MARKERS[index % 5],
            "linestyle": DASHES[index % 5],
        }
        axes.plot(x, y, label=picture.get("names", {}).get(name, name), **style)
        axes.fill_between(x, low, high, color=SERIES[index % 5], alpha=0.15, linewidth=0)
    axes.set_xscale(picture.get("x_scale", "linear"))
    if picture.get("x_scale") == "log":
        ticks = _apart(sorted({float(row[picture["x"]]) for row in rows}))
        axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
        axes.set_xticks([], minor=True)
    if picture.get("y_scale") == "log":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(picture["x_label"])


def _apart(values: list[float]) -> list[float]:
    """Return ascending values without those whose labels would overlap on a logarithmic axis."""
    kept: list[float] = []
    for value in values:
        if not kept or value >= _APART * kept[-1]:
            kept.append(value)
    return kept


def _dots(axes: Axes, picture: Mapping[str, Any], panel: Mapping[str, Any], rows: Rows) -> None:
    """Draw a point with its interval for each data set and recipe, one below the other."""
    data = list(dict.fromkeys(row["data"] for row in rows))
    recipes = list(dict.fromkeys(row["recipe"] for row in rows))
    for index, name in enumerate(data):
        for row in (row for row in rows if row["data"] == name):
            y = recipes.index(row["recipe"]) + 0.25 * (index - (len(data) - 1) / 2)
            value, low, high = _values(row, panel)
            axes.plot([low, high], [y, y], color=SERIES[index % 5], linewidth=1.6)
            first = row["recipe"] == recipes[0]
            label = picture.get("names", {}).get(name, name) if first else None
            axes.plot([value], [y], color=SERIES[index % 5], marker=MARKERS[index % 5], linestyle="", label=label)
    axes.set_yticks(range(len(recipes)), [picture.get("names", {}).get(recipe, recipe) for recipe in recipes])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_ylim(len(recipes) - 0.5, -0.5)


def _values(row: Mapping[str, str], panel: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return a figure with the ends of its interval; of a mean, one standard deviation of the seeds to both sides."""
    if panel["kind"] == "change":
        value, low, high = (100 * float(row[f"{panel['y']}_{part}"]) for part in ("change", "low", "high"))
        return value, low, high
    value, deviation = float(row[panel["y"]]), float(row.get(f"{panel['y']}_sd") or 0)
    return value, value - deviation, value + deviation
