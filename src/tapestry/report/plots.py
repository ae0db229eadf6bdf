"""Plots as inline SVG with the page's colours and font, so that they are legible in light and dark mode.

Each function returns one `<svg>` element; the same input gives the same bytes.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.style import context
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

Metrics = Mapping[str, float]
"""Metrics by name as in metrics/test.json: fractions of 1, and the number of targets "n"; without targets only "n"."""

# Placeholders: `_svg` replaces these colours by the page's CSS variables.
INK, MUTED, RULE, PAGE = "#000001", "#000002", "#000003", "#000004"
SERIES = ("#000011", "#000012", "#000013", "#000014", "#000015")
VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAGE: "--page"} | {
    colour: f"--series-{index}" for index, colour in enumerate(SERIES, start=1)
}
MARKERS = ("o", "s", "^", "D", "v")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
WIDTH = 10.0  # inches: 960 CSS pixels
LONGEST_LABEL = 40  # characters

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tapestry",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.titlepad": 10,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "text.color": INK,
    "text.parse_math": False,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "lines.linewidth": 1.8,
    "lines.markersize": 7,
    "lines.markeredgecolor": PAGE,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def metric_label(key: str) -> str:
    """`hr_10` → `HR@10`, `mrr` → `MRR`."""
    return key.upper().replace("_", "@")


def training_curve(curve: Sequence[Metrics], metrics: Sequence[str], best_epoch: int) -> str:
    """Plot training loss and validation `metrics` by epoch, side by side, and mark the best epoch."""
    with _style():
        figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
        for index, (axes, key) in enumerate(zip(_panels(figure, 1 + len(metrics)), ("loss", *metrics), strict=True)):
            epochs = [row["epoch"] for row in curve]
            values = [row[key] for row in curve]
            best = values[epochs.index(best_epoch)]
            axes.axvline(best_epoch, color=MUTED, linewidth=1, linestyle="--")
            axes.plot(epochs, values, color=SERIES[0], marker="o", markersize=4, markeredgewidth=0)
            axes.plot([best_epoch], [best], "o", markersize=10, markerfacecolor="none", markeredgecolor=INK)
            axes.set_xlabel("Epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
            axes.margins(x=0.06, y=0.12)
            if index:
                axes.set_title(f"Validation {metric_label(key)}: {best:.2%}")
                axes.yaxis.set_major_formatter(_percent)
            else:
                axes.set_title(f"Training loss, nats: {best:.3f}")
        return _svg(figure, "training", f"Training loss and validation figures by epoch; best epoch {best_epoch}")


def cutoff_curve(models: Mapping[str, Metrics], ks: Sequence[int]) -> str:
    """Plot HR@K against K (logarithmic) for each model; the first model is drawn on top."""
    with _style():
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        (axes,) = _panels(figure, 1)
        for index, (name, metrics) in reversed(list(enumerate(models.items()))):
            drawn = [k for k in ks if f"hr_{k}" in metrics]
            colour, marker, dash = SERIES[index % 5], MARKERS[index % 5], DASHES[index % 5]
            rates = [metrics[f"hr_{k}"] for k in drawn]
            axes.plot(drawn, rates, label=_short(name), color=colour, marker=marker, linestyle=dash)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(_labelled(ks)))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(_percent)
        axes.set_xlabel("K, logarithmic")
        axes.set_title("Test HR@K: targets ranked among the first K of their domain")
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], labelcolor=INK)
        return _svg(figure, "cutoffs", "HR@K against K of the model and the baselines")


def group_dots(groups: Mapping[str, Mapping[str, Metrics]], metrics: Sequence[str], overall: Metrics) -> str:
    """Plot one panel a metric, with one row a member of each group and a dashed line at `overall`."""
    rows: list[tuple[str, Metrics | None]] = []
    for title, members in groups.items():
        rows.append((title, None))
        rows += [(f"{_short(name)} (n = {row['n']:,})", row) for name, row in members.items()]
    with _style():
        figure = Figure(figsize=(WIDTH, 0.26 * len(rows) + 0.9), layout="constrained")
        for axes, key in zip(_panels(figure, len(metrics), sharey=True), metrics, strict=True):
            axes.axvline(overall[key], color=MUTED, linewidth=1, linestyle="--")
            for y, (_, row) in enumerate(rows):
                if row is None:
                    continue
                if row["n"] == 0:
                    axes.annotate("–", (0, y), (4, 0), textcoords="offset points", va="center", color=MUTED)
                    continue
                axes.plot([0, row[key]], [y, y], color=SERIES[0], linewidth=1.2, marker="")
                axes.plot([row[key]], [y], color=SERIES[0], marker="o", markersize=7)
            axes.set_xlim(left=0)
            axes.margins(x=0.08)
            axes.grid(visible=False, axis="y")
            axes.tick_params(axis="y", length=0)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
            axes.xaxis.set_major_formatter(_percent)
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.set_yticks(range(len(rows)), [label for label, _ in rows])
            for label, (_, row) in zip(axes.get_yticklabels(), rows, strict=False):
                label.set(color=INK, fontweight="bold" if row is None else "normal")
            axes.set_title(f"Test {metric_label(key)} (all: {overall[key]:.2%})")
        return _svg(figure, "groups", "Test figures by group of targets")


def _style() -> Any:
    """Return a context with Matplotlib's defaults and `STYLE`; the user's matplotlibrc has no effect."""
    return context(["default", STYLE])


def _panels(figure: Figure, columns: int, **options: Any) -> list[Axes]:
    return list(figure.subplots(1, columns, squeeze=False, **options)[0])


def _percent(fraction: float, _: float) -> str:
    return f"{100 * fraction:.3g}%"


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_LABEL else name[: LONGEST_LABEL - 1] + "…"


def _labelled(ks: Sequence[int]) -> list[int]:
    """Choose tick labels: the largest of `ks`, and each lower one whose label doesn't overlap the next one."""
    shown = [ks[-1]]
    least = max((ks[-1] / ks[0]) ** 0.03, 1.0)
    for k in reversed(ks[:-1]):
        if shown[-1] / k >= least:
            shown.append(k)
    return shown[::-1]


def _svg(figure: Figure, name: str, description: str) -> str:
    """Render the figure as an `<svg>` element. Ids get the prefix `name`, because the page has several figures."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(|xlink:href=")#', rf"\1#{name}-", svg)
    svg = re.sub(rf"(?<=: )({'|'.join(VARIABLES)})\b", lambda found: f"var({VARIABLES[found[0]]})", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" ', 1)
