"""Damaged and hostile files of parameters: each is refused in one line, within a second."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from tapestry.core.errors import TapestryError
from tapestry.core.yaml_file import MAX_BYTES, read_yaml


def bomb(entry: str) -> str:
    """Ten nested anchors, each with ten aliases of the one before."""
    return "a0: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i} {entry.format(', '.join([f'*a{i - 1}'] * 10))}\n" for i in range(1, 11)
    )


HOSTILE = {
    "lists in lists": ("model: " + "[" * 60_000, "model: more than 16 mappings or lists inside each other"),
    "lists in lists, closed": ("model: " + "[" * 20_000 + "]" * 20_000, "model: more than 16"),
    "mappings in mappings": ("model: " + "{width: " * 8_000, r"model\.width\.width: more than 16"),
    "dashes": ("- " * 30_000, "the file: more than 16"),
    "question marks": ("? " * 30_000, "the file: more than 16"),
    "billion laughs": (bomb("[{}]"), "a4: more than 5,000 values, each use of an alias counted"),
    "billion merges": (bomb("{{<<: [{}]}}"), "a4.<<: more than 5,000 values"),
    "a list of itself": ("model: &a [1, *a]", r"model: \*a is part of itself"),
    "an unknown alias": ("model: *a", "line 1: found undefined alias"),
    "many keys": ("".join(f"k{i}:\n" for i in range(5_000)), "k2499: more than 5,000 values"),
    "many entries": ("evaluate: {ks: [" + "1," * 20_000 + "]}", r"evaluate\.ks: more than 5,000 values"),
    "many digits": ("train:\n  seed: " + "9" * 50_000, r"train\.seed: a text of 50,000 characters; at most 1,000"),
    "a long key": ("k" * 50_000 + ": 1", "the file: a text of 50,000 characters"),
    "a key twice": ("train:\n  seed: 1\n  epochs: 2\n  seed: 3\n", 'line 4: found duplicate key "seed"'),
    "two documents": ("a: 1\n---\nb: 1\n", "line 2: .*another document"),
    "a tag of Python": ("a: !!python/object:os.system x", "line 1: could not determine a constructor"),
    "no date": ("a: 1\nb: 2001-02-30", "line 2: '2001-02-30': day is out of range for month"),
    "no number": ("a: !!int x", "line 1: 'x': invalid literal"),
    "no base64": ("a: !!binary '%'", None),
    "a control character": ("a: \0", "unacceptable character #x0000"),
    "a tag without end": ("a: " + "!" * 60_000, "line 1: could not determine a constructor"),
}


@pytest.mark.parametrize(("text", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_is_refused_in_one_short_line_within_a_second(
    tmp_path: Path, text: str, message: str | None
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    started = time.process_time()
    if message is None:
        read_yaml(path)
    else:
        with pytest.raises(TapestryError, match=rf"params\.yaml.*: {message}") as failure:
            read_yaml(path)
        found = str(failure.value).removeprefix(str(path))
        assert len(found) < 250
        assert found.isprintable()
    assert time.process_time() - started < 1


@pytest.mark.parametrize("kind", ["folder", "pipe", "latin 1", "UTF-16", "huge", "missing"])
def test_a_file_that_is_not_utf_8_text_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "params.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    elif kind != "missing":
        path.write_bytes("train:\n  seed: 1  # für".encode(kind.replace(" ", "")))
    messages = {
        "folder": "params.yaml is no file",
        "pipe": "params.yaml is no file",
        "latin 1": "params.yaml, line 2: byte 0xfc is not UTF-8; save the file as UTF-8",
        "UTF-16": "params.yaml, line 1: byte 0xff is not UTF-8; save the file as UTF-8",
        "huge": "params.yaml is larger than 64 KiB",
        "missing": "params.yaml not found: run from the checkout's root",
    }
    with pytest.raises(TapestryError, match=messages[kind]):
        read_yaml(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_read_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").touch(0o000)
    with pytest.raises(TapestryError, match=r"params.yaml can't be read: Permission denied"):
        read_yaml(tmp_path / "params.yaml")


def test_an_alias_within_the_limits_is_replaced_by_its_value(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train: &shared {seed: 7}\nother: {<<: *shared, x: [*shared, *shared]}\n")
    shared = {"seed": 7}
    assert read_yaml(tmp_path / "params.yaml") == {"train": shared, "other": {"seed": 7, "x": [shared, shared]}}


@settings(max_examples=300, deadline=None)
@given(st.text("ab: -[]{}&*!?|>'\"#%,\n\t1.~<=", max_size=60) | st.text(max_size=60) | st.binary(max_size=40))
def test_any_text_is_read_as_the_library_reads_it_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: str | bytes
) -> None:
    content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        value = read_yaml(path)
    except TapestryError as error:
        message = str(error)
    else:
        message = f"{path}: {YAML(typ='safe').load(content.decode())!r}"
        assert message == f"{path}: {value!r}"
    assert message.startswith(str(path))
    assert len(content) < MAX_BYTES
