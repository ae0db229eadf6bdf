"""Apply and check parameter overrides, as `dvc exp run -S` accepts them, without changing params.yaml."""

from __future__ import annotations

import dataclasses
import difflib
import shutil
import tempfile
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tapestry.core.errors import TapestryError, one_line, shown
from tapestry.core.settings import parse
from tapestry.core.yaml_file import read_yaml
from tapestry.parameters import Parameters, load_parameters

FILE = "params.yaml"


def parameter_names() -> list[str]:
    """List each parameter as `section.key`, in the order of the file."""
    sections = typing.get_type_hints(Parameters)
    return [f"{section}.{field.name}" for section, kind in sections.items() for field in dataclasses.fields(kind)]


def with_overrides(file: Path, overrides: Sequence[str]) -> tuple[str, Parameters]:
    """Return the text of params.yaml after `dvc exp run -S` with each of `overrides`, and its parsed parameters.

    Raises:
        TapestryError: an override isn't `section.key=value`, has several values or names no parameter; a resulting
            value has a wrong type or is out of range; or the file itself is invalid or can't be read.
    """
    for override in overrides:
        _check_key(override)
    if not overrides:
        parameters = load_parameters(file)
        return file.read_text(encoding="utf-8"), parameters
    read_yaml(file)
    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder) / FILE
        shutil.copyfile(file, changed)
        _apply(changed, [_in_file(override) for override in overrides])
        return changed.read_text(encoding="utf-8"), _checked(changed, file, overrides)


def _checked(changed: Path, file: Path, overrides: Sequence[str]) -> Parameters:
    try:
        return parse(Parameters, read_yaml(changed))
    except TapestryError as error:
        message = str(error).replace(str(changed), FILE)
    load_parameters(file)  # if the file itself is invalid, report the file instead of the override
    raise TapestryError(f"-S {one_line(' -S '.join(overrides))}: {message}")


def _check_key(override: str) -> None:
    """Raise a TapestryError unless the override sets one value of a known parameter."""
    (parsed,) = _parsed(_in_file(override))
    key = str(parsed.key_or_group)
    if parsed.is_sweep_override():
        raise TapestryError(
            f"-S {one_line(override)}: several values are a sweep, which only `dvc exp run --queue` accepts; give one "
            f"value here, and a list in brackets: -S '{one_line(key)}=[…]'"
        )
    names = parameter_names()
    if key in names or key in {name.partition(".")[0] for name in names}:
        return
    same = [name for name in names if name.partition(".")[2] == key.rpartition(".")[2]]
    similar = same or difflib.get_close_matches(key, names, n=3, cutoff=0.7)
    hint = f"similar names: {', '.join(similar)}" if similar else f"all names are in {FILE}"
    raise TapestryError(f"-S {one_line(override)}: there is no parameter {one_line(key)}; {hint}")


def _in_file(override: str) -> str:
    """Return the override without the name of the file, which DVC accepts before a colon."""
    name, colon, _ = override.partition("=")[0].partition(":")
    if not colon:
        return override
    if Path(name).name != FILE:
        raise TapestryError(
            f"-S {one_line(override)}: changes {one_line(name)}; the pipeline's parameters are in {FILE}"
        )
    return override[len(name) + 1 :]


def _parsed(override: str) -> list[Any]:
    from dvc.utils.hydra import to_hydra_overrides
    from hydra.errors import OverrideParseException

    try:
        return list(to_hydra_overrides([override]))
    except OverrideParseException as error:
        raise TapestryError(
            f"-S {shown(override)}: not section.key=value ({one_line(str(error).partition(chr(10))[0])}); a value with "
            "brackets, spaces or commas needs quotes of the shell"
        ) from error


def _apply(file: Path, overrides: list[str]) -> None:
    """Apply the overrides with DVC's own code, so that the values are those that DVC would write."""
    from dvc.exceptions import InvalidArgumentError
    from dvc.utils.hydra import apply_overrides

    try:
        apply_overrides(str(file), overrides)
    except InvalidArgumentError as error:
        cause = one_line(str(error.__cause__ or error).partition("\n")[0])
        raise TapestryError(f"-S {one_line(' -S '.join(overrides))}: {cause}") from error
