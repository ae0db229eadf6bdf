"""The argument of a stage that runs once for each entry of a parameter's list: `python stages/run.py ingest Books`."""

from __future__ import annotations

from collections.abc import Sequence

from tapestry.core.errors import TapestryError, one_line, shown


def stage_argument(arguments: Sequence[str], names: Sequence[str], parameter: str) -> str:
    """Return the one of `names` that the command-line arguments of a stage give.

    Args:
        parameter: the parameter whose list `names` is, such as source.domains.

    Raises:
        TapestryError: there isn't exactly one argument, or it is not one of `names`.
    """
    accepted = f"{parameter}: {', '.join(names) or 'none'}"
    if len(arguments) != 1:
        found = one_line(" ".join(arguments)) or "none"
        raise TapestryError(f"one argument is needed, found {found}; accepted is one of {accepted}")
    if arguments[0] not in names:
        raise TapestryError(f"{shown(arguments[0])} is not one of {accepted}")
    return arguments[0]
