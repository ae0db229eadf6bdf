"""Commit, experiment and hardware on a copy of the report: MLflow keeps that copy.

The page that DVC tracks has none of these, since the same code, parameters and data are to give the same bytes.
"""

from __future__ import annotations

import html
from collections.abc import Mapping

from tapestry.core.errors import TapestryError

PLACE = '<tbody id="origin"></tbody>'
"""The empty part of the table "How this was made" that `with_origin` fills."""


def with_origin(page: str, origin: Mapping[str, str]) -> str:
    """The report `page` with a row for each of `origin` under "How this was made"; names and values are plain text.

    Raises:
        TapestryError: the page has no empty place for the rows, so it is not a report, or has them already.
    """
    if page.count(PLACE) != 1:
        raise TapestryError(
            "the report has no place for its origin; make it anew: `dvc repro --force --single-item report`"
        )
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>\n'
        for name, value in origin.items()
    )
    return page.replace(PLACE, f'<tbody id="origin">\n{rows}</tbody>')
