"""Plots as inline SVG with the page's colours and font, so that they are legible in light and dark mode.

Each function returns one `<svg>` element; the same input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from tapestry.report.figure_style import DASHES, INK, MARKERS, MUTED, SERIES, WIDTH, figure_style, figure_svg, panels

Metrics = Mapping[str, float]
"""Metrics by name as in metrics/test.json: fractions of 1, and the number of targets "n"; without targets only "n"."""

LONGEST_LABEL = 40  # characters
_NUMBERED = 12  # domains up to which the map of transitions has numbers


def metric_label(key: str) -> str:
    """`hr_10` → `HR@10`, `hr_10_of_999` → `HR@10 of 999`, `domain_mrr` → `MRR, mean over domains`."""
    if key.startswith("domain_"):
        return f"{metric_label(key.removeprefix('domain_'))}, mean over domains"
    metric, of, negatives = key.partition("_of_")
    return metric.upper().replace("_", "@") + of.replace("_", " ") + negatives


def transition_map(transitions: Mapping[str, Mapping[str, int]]) -> str:
    """Plot how often each domain follows each: a row a domain, its pairs by domain of the next interaction, in %."""
    names = list(transitions)
    size = len(names)
    numbers = size <= _NUMBERED
    with figure_style():
        figure = Figure(figsize=(WIDTH, 1.6 + (0.42 if numbers else 0.26) * size), layout="constrained")
        (axes,) = panels(figure, 1)
        for y, row in enumerate(transitions.values()):
            total = sum(row.values())
            for x, pairs in enumerate(row.values()):
                share = pairs / total if total else 0.0
                cell = Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=SERIES[0], alpha=0.75 * share, linewidth=0)
                axes.add_patch(cell)
                if numbers:
                    axes.text(x, y, f"{100 * share:.0f}", ha="center", va="center", color=INK)
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.grid(visible=False)
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        # Names are too long for columns, so columns have the rows' numbers.
        axes.set_xticks(range(size), [str(number) for number in range(1, size + 1)])
        axes.set_yticks(range(size), [f"{_short(name)}  {number}" for number, name in enumerate(names, start=1)])
        axes.tick_params(length=0, labelcolor=INK)
        axes.set_xlabel("Domain of the next interaction, % of the row")
        return figure_svg(figure, "transitions", "How often an interaction in one domain is followed by one in another")


def length_bars(lengths: Sequence[Mapping[str, int]]) -> str:
    """Plot the number of users by the length of their sequence."""
    with figure_style():
        figure = Figure(figsize=(WIDTH, 2.8), layout="constrained")
        (axes,) = panels(figure, 1)
        labels = [f"{row['from']}–{row['to']}" if row["to"] > row["from"] else str(row["from"]) for row in lengths]
        axes.bar(range(len(lengths)), [row["users"] for row in lengths], color=SERIES[0], width=0.7)
        axes.set_xticks(range(len(lengths)), labels)
        axes.tick_params(axis="x", length=0)
        axes.grid(visible=False, axis="x")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("Interactions of a user")
        axes.set_title("Users by length of their sequence")
        return figure_svg(figure, "lengths", "Number of users by the length of their sequence")


def training_curve(curve: Sequence[Metrics], metrics: Sequence[str], best_epoch: int) -> str:
    """Plot training loss and validation `metrics` by epoch, side by side, and mark the best epoch."""
    with figure_style():
        figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
        for index, (axes, key) in enumerate(zip(panels(figure, 1 + len(metrics)), ("loss", *metrics), strict=True)):
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
        return figure_svg(figure, "training", f"Training loss and validation figures by epoch; best epoch {best_epoch}")


def cutoff_curve(models: Mapping[str, Metrics], ks: Sequence[int]) -> str:
    """Plot HR@K against K (logarithmic) for each model; the first model is drawn on top."""
    with figure_style():
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        (axes,) = panels(figure, 1)
        for index, (name, metrics) in reversed(list(enumerate(models.items()))):
            drawn = [k for k in ks if f"hr_{k}" in metrics]
            again = index + index // 5  # so that the sixth line doesn't look like the first
            colour, marker, dash = SERIES[index % 5], MARKERS[again % 5], DASHES[again % 5]
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
        return figure_svg(figure, "cutoffs", "HR@K against K of the model and the baselines")


def group_dots(groups: Mapping[str, Mapping[str, Metrics]], metrics: Sequence[str], overall: Metrics) -> str:
    """Plot one panel a metric, with one row a member of each group and a dashed line at `overall`."""
    rows: list[tuple[str, Metrics | None]] = []
    for title, members in groups.items():
        rows.append((title, None))
        rows += [(f"{_short(name)} (n = {row['n']:,})", row) for name, row in members.items()]
    with figure_style():
        figure = Figure(figsize=(WIDTH, 0.26 * len(rows) + 0.9), layout="constrained")
        for axes, key in zip(panels(figure, len(metrics), sharey=True), metrics, strict=True):
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
        return figure_svg(figure, "groups", "Test figures by group of targets")


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
