"""The studies in the report: of each its question, its answer and its picture, from the files of its folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tapestry.core.errors import TapestryError

_ANSWER = "## Answer\n"


@dataclass(frozen=True)
class Study:
    """A study: `title`, text; `answer`, HTML without links; `picture`, an inline SVG that takes the page's colours."""

    title: str
    answer: str
    picture: str


def read_studies(folder: Path) -> list[Study]:
    """Read every study of `folder` that has a picture.svg, by name.

    The title is the first line of its README.md. The answer is the section "Answer", up to its first table.

    Raises:
        TapestryError: a README.md has no title or no answer.
    """
    return [_read(path.parent) for path in sorted(folder.glob("*/picture.svg"))]


def _read(folder: Path) -> Study:
    file = folder / "README.md"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    _, found, answer = text.partition(_ANSWER)
    if not text.startswith("# ") or not found:
        raise TapestryError(f"{file}: a study has a title in its first line (`# …`) and a section `## Answer`")
    answer = re.split(r"^(?:## |\||!\[)", answer, maxsplit=1, flags=re.MULTILINE)[0]
    picture = (folder / "picture.svg").read_text(encoding="utf-8")
    return Study(
        title=text.partition("\n")[0].removeprefix("# "),
        answer=_without_links().render(answer),
        picture=re.sub(r"<style>svg \{.*?</style>", "", picture, count=1).strip(),
    )


def _without_links() -> MarkdownIt:
    """Return a renderer of Markdown that keeps the text of links alone: the page must not refer to other files."""
    renderer = MarkdownIt("commonmark", {"html": False})
    for name in ("link_open", "link_close"):
        renderer.add_render_rule(name, _nothing)
    return renderer


def _nothing(_renderer: Any, _tokens: Sequence[Token], _index: int, _options: Any, _env: Any) -> str:
    return ""
