"""Adds commit, experiment and hardware to MLflow's copy of the report.

The page that DVC tracks has none of these, so that the same code, parameters and data give the same bytes.
"""

from __future__ import annotations

import html
from collections.abc import Mapping

from tapestry.core.errors import TapestryError

SLOT = '<tbody id="origin"></tbody>'
"""The empty part of the table "How this was made", which `with_origin` fills."""


def with_origin(page: str, origin: Mapping[str, str]) -> str:
    """Return the report `page` with a row for each of `origin` under "How this was made".

    Args:
        origin: plain texts by name.

    Raises:
        TapestryError: the page has no empty slot for the rows: it is not a report, or it has them already.
    """
    if page.count(SLOT) != 1:
        raise TapestryError(
            "the report has no empty slot for its origin; make it again: `dvc repro --force --single-item report`"
        )
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>\n'
        for name, value in origin.items()
    )
    return page.replace(SLOT, f'<tbody id="origin">\n{rows}</tbody>')
