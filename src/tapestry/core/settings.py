"""Strict parser of the sections of params.yaml. Unknown keys, missing keys and wrong types are errors.

A package with a section of params.yaml has its dataclass in `settings.py`, such as
`tapestry.model.settings.ModelSettings`. A stage reads only its own sections, so a new parameter reruns only the stages
of its section. The first stage and the commands read the whole file (`tapestry.parameters`).

Parameters are read as DVC reads them (YAML 1.2), so `1e-05` is a number. No parameter may have the name `size` or
`nfiles`, because DVC leaves keys of these names out of its run-cache key.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from tapestry.core.errors import TapestryError, one_line, shown
from tapestry.core.yaml_file import read_yaml

T = TypeVar("T")

PARAMETERS = Path("params.yaml")


def load_section(section: type[T], name: str, path: Path = PARAMETERS) -> T:
    """Read and check one section, or one parameter, of params.yaml.

    Args:
        section: the section's dataclass, or the parameter's type.
        name: the dotted name of the section (`model`) or parameter (`source.domains`).
        path: the file.

    Raises:
        TapestryError: the file can't be read (see `read_yaml`) or isn't a mapping, or a key is unknown or missing, or
            a value has the wrong type or is out of range; the message names the file and the key.
    """
    values = read_yaml(path)
    try:
        found = ""
        for key in name.split("."):
            if not isinstance(values, dict):
                raise TapestryError(f"{found or 'the file'}: expected a mapping of keys, got {shown(values)}")
            found = _join(found, key)
            if key not in values:
                raise TapestryError(f"{found}: missing")
            values = values[key]
        converted: T = _convert(section, values, name)
        return converted
    except TapestryError as error:
        raise TapestryError(f"{path}: {error}") from error


def parse(section: type[T], values: Any, name: str = "") -> T:
    """Build the dataclass `section` from a mapping. A key may be missing if its field has a default.

    Args:
        section: the dataclass.
        values: the mapping.
        name: the dotted name of the section, for messages.

    Raises:
        TapestryError: as for `load_section`.
    """
    if not isinstance(values, dict):
        raise TapestryError(f"{name or 'the file'}: expected a mapping of keys, got {shown(values)}")
    hints = typing.get_type_hints(section, include_extras=True)
    for key in values:
        if key not in hints:
            raise TapestryError(f"{_join(name, key)}: unknown parameter; known are {', '.join(hints)}")
    optional = {
        field.name
        for field in dataclasses.fields(typing.cast(Any, section))
        if field.default is not dataclasses.MISSING
    }
    arguments = {}
    for key, kind in hints.items():
        if key not in values:
            if key in optional:
                continue
            raise TapestryError(f"{_join(name, key)}: missing")
        arguments[key] = _convert(kind, values[key], _join(name, key))
    return section(**arguments)


def flatten(settings: Any, name: str = "") -> dict[str, Any]:
    """Flatten a dataclass into {"model.width": 64, …}, the names that DVC and MLflow show."""
    flat: dict[str, Any] = {}
    for key, value in dataclasses.asdict(settings).items():
        if isinstance(value, dict):
            flat |= {f"{_join(name, key)}.{inner}": leaf for inner, leaf in value.items()}
        else:
            flat[_join(name, key)] = value
    return flat


def _convert(kind: Any, value: Any, name: str) -> Any:
    if get_origin(kind) is Annotated:
        base, *rules = get_args(kind)
        converted = _convert(base, value, name)
        for rule in rules if converted is not None else ():
            rule(converted, name)
        return converted
    if dataclasses.is_dataclass(kind):
        return parse(typing.cast(type, kind), value, name)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise TapestryError(f"{name}: {shown(value)} is not one of {', '.join(map(str, get_args(kind)))}")
        return value
    if get_origin(kind) is types.UnionType:
        if value is None:
            return None
        (kind,) = (k for k in get_args(kind) if k is not types.NoneType)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise TapestryError(f"{name}: expected a list, got {shown(value)}")
        return tuple(_convert(get_args(kind)[0], item, f"{name}[{i}]") for i, item in enumerate(value))
    return _scalar(kind, value, name)


def _scalar(kind: Any, value: Any, name: str) -> Any:
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise TapestryError(f"{name}: expected {_KINDS[kind]}, got {shown(value)}")
    if kind is float:
        if not abs(value) <= sys.float_info.max:
            raise TapestryError(f"{name}: expected a finite number, got {shown(value)}")
        return float(value)
    if kind is str and _CONTROL.search(value):
        raise TapestryError(f"{name}: {shown(value)} holds a control character or half a character; take it out")
    return value


_CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")
_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
}


def _join(name: str, key: str) -> str:
    shown_key = one_line(str(key))
    return f"{name}.{shown_key}" if name else shown_key
