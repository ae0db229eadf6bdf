"""The look of all plots: colours, font and form, as inline SVG or as a file of its own.

A page defines the colours as CSS variables, in light and in dark mode. Plots are drawn in placeholder colours, which
`figure_svg` replaces by these variables. The same input gives the same bytes.
"""

from __future__ import annotations

import html
import io
import re
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.style import context

# Placeholders: `figure_svg` replaces these colours by the page's CSS variables.
INK, MUTED, RULE, PAGE = "#000001", "#000002", "#000003", "#000004"
SERIES = ("#000011", "#000012", "#000013", "#000014", "#000015")
VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAGE: "--page"} | {
    colour: f"--series-{index}" for index, colour in enumerate(SERIES, start=1)
}
LIGHT = {
    "--page": "#fff",
    "--ink": "#1c2127",
    "--muted": "#59626d",
    "--rule": "#d9dee4",
    "--series-1": "#0072b2",
    "--series-2": "#d55e00",
    "--series-3": "#008763",
    "--series-4": "#aa4a86",
    "--series-5": "#8a6d00",
}
DARK = {
    "--page": "#15191e",
    "--ink": "#e6eaee",
    "--muted": "#a0a9b4",
    "--rule": "#343b44",
    "--series-1": "#56b4e9",
    "--series-2": "#f08a4b",
    "--series-3": "#35c49a",
    "--series-4": "#d991c0",
    "--series-5": "#e0c040",
}
MARKERS = ("o", "s", "^", "D", "v")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
WIDTH = 10.0  # inches: 960 CSS pixels

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


def figure_style() -> Any:
    """Return a context with Matplotlib's defaults and `STYLE`; the user's matplotlibrc has no effect."""
    return context(["default", STYLE])


def panels(figure: Figure, columns: int, **options: Any) -> list[Axes]:
    return list(figure.subplots(1, columns, squeeze=False, **options)[0])


def figure_svg(figure: Figure, name: str, description: str) -> str:
    """Render the figure as an `<svg>` element.

    Args:
        name: prefix of all ids, because a page has several figures.
        description: for those who can't see it.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(|xlink:href=")#', rf"\1#{name}-", svg)
    svg = re.sub(rf"(?<=: )({'|'.join(VARIABLES)})\b", lambda found: f"var({VARIABLES[found[0]]})", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" ', 1)


def css(colours: dict[str, str]) -> str:
    """Return the declarations of CSS variables."""
    return " ".join(f"{name}: {colour};" for name, colour in colours.items())


def standalone_svg(svg: str) -> str:
    """Return an inline SVG of `figure_svg` as the text of a file: with its own colours, in light and in dark mode."""
    style = (
        f"<style>svg {{ {css(LIGHT)} background: var(--page); }} "
        f"@media (prefers-color-scheme: dark) {{ svg {{ {css(DARK)} }} }}</style>"
    )
    return re.sub(r"(<svg[^>]*>)", rf"\1{style}", svg, count=1) + "\n"
