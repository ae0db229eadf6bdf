"""YAML with limits: a file that would take long, or much memory, is refused before its values are built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
)
from ruamel.yaml.nodes import Node

from tapestry.core.errors import TapestryError, one_line, shown

MAX_BYTES = 1 << 16
MAX_DEPTH = 16  # nested mappings and lists
MAX_NODES = 5_000  # keys, values and list entries; those of an alias (*name) count at each use
MAX_CHARACTERS = 1_000  # of one key or value


def read_yaml(path: Path) -> Any:
    """Read the only document in a YAML file.

    Raises:
        TapestryError: the file doesn't exist, can't be read, isn't valid UTF-8 or YAML, or is above a limit of this
            module; the message names the file, and the key or the line.
    """
    text = _text(path)
    try:
        _check(text)
        yaml = YAML(typ="safe")  # by libyaml, as DVC reads the same files
        yaml.Constructor = _Constructor
        return yaml.load(text)
    except MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise TapestryError(f"{path} is not valid YAML: {line}{one_line(error.problem)}") from error
    except YAMLError as error:
        raise TapestryError(f"{path} is not valid YAML: {one_line(str(error).partition(chr(10))[0])}") from error
    except _LimitError as error:
        raise TapestryError(f"{path}: {error}") from None


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise TapestryError(f"{path} is no file: a YAML file of parameters is expected in its place")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise TapestryError(f"{path} not found: run from the checkout's root") from error
    except OSError as error:
        raise TapestryError(f"{path} can't be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise TapestryError(f"{path} is larger than {MAX_BYTES >> 10} KiB: no file of parameters is")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TapestryError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error


class _Constructor(SafeConstructor):
    """Names the line also of a value that Python's types refuse, such as the date 2001-02-30."""

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, AttributeError) as error:
            raise ConstructorError(None, None, f"{shown(node.value)}: {error}", node.start_mark) from error


class _LimitError(Exception):
    """The file is above a limit of this module."""


@dataclass
class _Collection:
    """A mapping or list whose end the parser has not reached."""

    mapping: bool
    anchor: str | None
    key: str = ""
    key_next: bool = True
    nodes: int = 1


def _check(text: str) -> None:
    """Check the limits on the parser's events, without building values."""
    nodes_of: dict[str, int] = {}  # by anchor, for those whose end the parser has reached
    open_collections: list[_Collection] = []

    def name() -> str:
        keys = [one_line(collection.key) for collection in open_collections if collection.key]
        return ".".join(keys[:3]) or "the file"

    def count(nodes: int) -> None:
        if open_collections:
            open_collections[-1].nodes += nodes
            if open_collections[-1].nodes > MAX_NODES:
                raise _LimitError(f"{name()}: more than {MAX_NODES:,} values, each use of an alias counted")

    for event in YAML(typ="safe").parse(text):
        if isinstance(event, NodeEvent) and open_collections and open_collections[-1].mapping:
            parent = open_collections[-1]
            if parent.key_next:
                parent.key = str(event.value) if isinstance(event, ScalarEvent) else ""
            parent.key_next = not parent.key_next
        if isinstance(event, ScalarEvent):
            if len(event.value) > MAX_CHARACTERS:
                raise _LimitError(f"{name()}: a text of {len(event.value):,} characters; at most {MAX_CHARACTERS:,}")
            count(1)
        elif isinstance(event, AliasEvent):
            if any(collection.anchor == event.anchor for collection in open_collections):
                raise _LimitError(f"{name()}: *{one_line(event.anchor)} is part of itself")
            count(nodes_of.get(event.anchor, 1))
        elif isinstance(event, CollectionStartEvent):
            if len(open_collections) == MAX_DEPTH:
                raise _LimitError(f"{name()}: more than {MAX_DEPTH} mappings or lists inside each other")
            open_collections.append(_Collection(isinstance(event, MappingStartEvent), event.anchor))
        elif isinstance(event, CollectionEndEvent):
            closed = open_collections.pop()
            if closed.anchor is not None:
                nodes_of[closed.anchor] = closed.nodes
            count(closed.nodes)
