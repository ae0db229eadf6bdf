"""Parsing of histories, and the numbers of their items."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tapestry.core.errors import TapestryError
from tapestry.recommending.catalogue import Catalogue, read_catalogue
from tapestry.recommending.histories import parse_history, read_histories
from tapestry.sequences.reader import Domain

DOMAINS = (Domain("Books", 0, 3), Domain("Toys", 3, 5))
GLOBAL = Catalogue(np.array(["a", "b", "c", "d", "e"], dtype=object), DOMAINS)
BY_DOMAIN = Catalogue(np.array(["1", "2", "3", "1", "9"], dtype=object), DOMAINS)


def test_a_plain_file_is_one_history_in_the_order_of_its_lines() -> None:
    (history,) = read_histories(b"\xef\xbb\xbfb\r\n\n  a \nb\n", "h.txt")
    assert (history.user_id, history.item_ids, history.domains) == ("line 1", ["b", "a", "b"], [None, None, None])


def test_each_json_line_is_a_history() -> None:
    lines = ['{"user_id": "u", "history": ["a", 5, 6.0]}', "", '["b"]', '{"user_id": null, "history": []}']
    lines.append('{"user_id": 7, "history": [{"item_id": 1, "domain": "Toys"}, {"item_id": "x"}]}')
    found = read_histories("\n".join(lines).encode(), "h.jsonl")
    assert [(history.user_id, history.item_ids, history.domains) for history in found] == [
        ("u", ["a", "5", "6"], [None, None, None]),
        ("line 3", ["b"], [None]),
        ("line 4", [], []),
        ("7", ["1", "x"], ["Toys", None]),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "h: no history in it"),
        (b"\n \n", "h: no history in it"),
        (b"a\n\xff\n", "h, line 2: not UTF-8"),
        (b'{"history": ["a"]}\n\n{"history": ["a"', "h, line 3: not JSON"),
        (b"[" * 100_000, "h, line 1: not JSON"),
        (b'{"history": "a"}', 'h, line 1: found {"history": "a"}, expected {"history"'),
        (b'{"history": ["a"]}\nb', "h, line 2: not JSON"),
        (b'{"histroy": []}', "h, line 1: found"),
        (b'{"history": [], "userid": 3}', "h, line 1: unknown key 'userid', expected"),
        (b'{"history": [], "user_id": [3]}', "h, line 1: user_id is [3], expected text or a whole number"),
        (b'{"history": ["a", null]}', "h, line 1: item 2 of the history is None: expected text, a whole number, or"),
    ],
)
def test_a_file_without_a_valid_history_is_an_error_with_its_line(content: bytes, message: str) -> None:
    with pytest.raises(TapestryError, match=re.escape(message)):
        read_histories(content, "h")


@pytest.mark.parametrize(
    "entry", [None, True, 1.5, float("nan"), 2.0**60, ["a"], {"item_id": None}, {"id": "a"}, {"item_id": "a", "x": 1}]
)
def test_an_entry_that_is_not_an_id_is_an_error(entry: Any) -> None:
    with pytest.raises(TapestryError, match="item 2 of the history is"):
        parse_history("u", ["a", entry])


def test_numpy_integers_and_text_are_ids() -> None:
    history = parse_history("u", np.array([3, 4]))
    assert history.item_ids == ["3", "4"]
    assert parse_history("u", np.array(["a", " b "])).item_ids == ["a", "b"]


def test_unknown_items_are_skipped_and_counted_and_repeated_items_stay() -> None:
    numbers, unknown = GLOBAL.numbers(["e", "x", "a", "e", ""])
    assert (numbers.tolist(), unknown) == ([4, 0, 4], 2)
    assert GLOBAL.numbers([])[0].dtype == np.int64


def test_an_item_that_is_not_in_its_given_domain_is_unknown() -> None:
    numbers, unknown = GLOBAL.numbers(["a", "a", "d", "d"], ["Books", "Toys", "Nowhere", None])
    assert (numbers.tolist(), unknown) == ([0, 3], 2)


def test_an_id_in_several_domains_needs_a_given_domain() -> None:
    numbers, unknown = BY_DOMAIN.numbers(["1", "1", "9", "2"], ["Books", "Toys", None, None])
    assert (numbers.tolist(), unknown) == ([0, 3, 4, 1], 0)
    with pytest.raises(
        TapestryError, match="item '1' names an item in each of the domains Books, Toys: give its domain"
    ):
        BY_DOMAIN.numbers(["2", "1"])


def test_domain_numbers_of_items_and_of_names() -> None:
    assert GLOBAL.domain_of(np.array([0, 2, 3, 4])).tolist() == [0, 0, 1, 1]
    assert GLOBAL.domain_number("Toys") == 1
    with pytest.raises(TapestryError, match="unknown domain 'toys': the model knows Books, Toys"):
        GLOBAL.domain_number("toys")


def test_a_catalogue_of_other_data_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    with pytest.raises(TapestryError, match="no items; run `dvc repro sessionize`"):
        read_catalogue(path, DOMAINS)
    path.write_bytes(b"PAR1")
    with pytest.raises(TapestryError, match="damaged"):
        read_catalogue(path, DOMAINS)
    ids = ["a", "b", "c", "d", "e"]
    pq.write_table(pa.table({"item_id": ids, "domain": pa.array([0, 0, 1, 1, 1], pa.int16())}), path)
    with pytest.raises(TapestryError, match="5 items in 2 domains, but the model was trained on 5 items in 2 domains"):
        read_catalogue(path, DOMAINS)
    pq.write_table(pa.table({"item_id": ids, "domain": pa.array([0, 0, 0, 1, 1], pa.int16())}), path)
    assert read_catalogue(path, DOMAINS).item_id.tolist() == ids
