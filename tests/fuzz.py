"""Compares ingest with an oracle on generated files: python tests/fuzz.py [--inputs N] [--seed S] [--keep FOLDER]

Input number N depends only on N, so `--seed N --inputs 1` repeats it. The file of an input that fails is kept. The
interactions, the quarantine with its reasons and the counts must equal those of `oracles.ingest`.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import math
import random
import re
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from oracles.ingest import (
    Interaction,
    Timestamp,
    Unusable,
    classify,
    classify_csv,
    classify_json,
    expected,
    float_id,
    text_id,
)
from raw_rows import small_blocks
from tqdm import tqdm

from tapestry.core.errors import TapestryError
from tapestry.ingest.ingest import ingest
from tapestry.ingest.settings import IngestSettings
from tapestry.parameters import load_parameters

NOON = 1_378_252_800
LAYOUTS = {
    ("reviewerID", "asin", "unixReviewTime", "overall"): "seconds",
    ("user_id", "parent_asin", "timestamp", "rating"): "milliseconds",
    ("user_id", "item_id", "timestamp", "rating"): "seconds",
}
OTHER_COLUMNS = ("note", "Timestamp", "USER_ID", "file_row_number", "row", "problem", "text", "source", "line", 'a"b')


@dataclass(frozen=True)
class RawInput:
    """A raw file, and for each row its interaction or the reason why it is unusable."""

    name: str
    content: bytes
    classified: list[str | Interaction]


class Generator:
    """Makes one input from its number."""

    def __init__(self, number: int, settings: IngestSettings) -> None:
        self.random = random.Random(number)
        self.settings = settings
        self.names, self.unit = self.random.choice(list(LAYOUTS.items()))

    def make(self) -> RawInput:
        kinds: list[Callable[[], RawInput]] = [self.csv, self.csv, self.json, self.parquet]
        return self.random.choice(kinds)()

    def pick(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def time(self) -> int:
        scale = {"seconds": 1, "milliseconds": 1000}[self.unit]
        return (NOON + self.random.randrange(20) * 86_400) * scale

    def time_text(self) -> str:
        time = self.time()
        return str(
            self.pick(
                *[time] * 12, f"{time}.0", f"{time}.", f" {time} ", f"+{time}", f"{time:.5E}", f"{time}.5", "1_0",
                f"{time} UTC", time * 1000, time * 10**6, time * 10**9, time // 1000, "", " ", "nan", "-inf", 0, -time,
                "9" * 400, "2013-09-04", f"{time}\u00a0", "0x10", "1e400", "\u0661\u0662",
            )
        )  # fmt: skip

    def id_text(self, letter: str) -> str:
        number = self.random.randrange(9)
        plain = f"{letter}{number}"
        return str(
            self.pick(
                *[plain] * 12, number, f"{number}.0", f"{number}.50", f"{number}e5", "7.65612E+16",
                "76561197970982481.0", "",
                " ", "\t", "nan", "NaN", "NULL", "None", "true", "[]", "{}", f" {plain}\u00a0", "é", "e\u0301",
                f'{letter}"{number}', f"{letter},{number}", f"{letter}\n{number}", "INF", "-0.0", "\u202e" + plain,
                "9007199254740992.0", "9007199254740993.0", f"{letter}\x1b[31m", "1_0", f"{letter};\t|{number}",
            )
        )  # fmt: skip

    def rating_text(self) -> str:
        return str(self.pick(*["5", "1.0", "2.5", ""] * 4, "0", "6", "five", "nan", "inf", "1_0", " 3 ", "1e0", "-1"))

    def columns(self, others: Sequence[str]) -> list[str]:
        """The layout's columns and some others, in any order; the rating may be missing."""
        names = [*self.names[: self.pick(3, 4, 4)], *self.random.sample(others, self.random.randrange(3))]
        self.random.shuffle(names)
        return names

    def csv(self) -> RawInput:
        delimiter = self.pick(",", ",", "\t", ";", "|")
        line_end = self.pick("\n", "\n", "\r\n", "\r")
        columns = self.columns(OTHER_COLUMNS)
        values: dict[str, Callable[[], str]] = dict(
            zip(
                self.names,
                (lambda: self.id_text("A"), lambda: self.id_text("B"), self.time_text, self.rating_text),
                strict=True,
            )
        )

        def note() -> str:
            return str(self.pick("", "x", '6" disc', "a,b", 'say ""no""', "two\nlines", "5,6", '"', "\r"))

        quoting = self.pick("minimal", "minimal", "all", "none")
        lines = []
        for _ in range(self.random.randrange(1, 60)):
            fields = [self.field(values.get(name, note)(), delimiter, quoting) for name in columns]
            if self.random.random() < 0.05:
                fields = fields[: self.random.randrange(len(fields))] + ["more"] * self.random.randrange(3)
            lines.append(delimiter.join(fields) if self.random.random() > 0.03 else self.pick("", " ", "\t "))
        body = bytearray((line_end.join(lines) + self.pick(line_end, "")).encode())
        for _ in range(self.pick(0, 0, 0, 1, 1, 3, 10) if body else 0):
            position = self.random.randrange(len(body))
            damage = self.pick(b'"', b'"', b'""', b"\n", b"\r", delimiter.encode(), b"\xff", b"\0", b"")
            body[position : position + self.random.randrange(2)] = damage
        quoted = ['"' + name.replace('"', '""') + '"' if '"' in name else name for name in columns]
        header = self.pick(b"", b"\xef\xbb\xbf", b"\n") + (delimiter.join(quoted) + line_end).encode()
        if header.endswith(b"\r") and body.startswith(b"\n"):
            body = body[1:]
        classified = classify_csv(bytes(body), delimiter.encode(), columns, self.names, self.settings, self.unit)
        return self.stored(
            self.pick("Books.csv", "Books.csv", "Books.tsv", "Books.inter"), header + bytes(body), classified
        )

    def field(self, text: str, delimiter: str, quoting: str) -> str:
        needed = any(character in text for character in ('"', "\n", "\r", delimiter))
        if quoting == "all" or (quoting == "minimal" and needed):
            return '"' + text.replace('"', '""') + '"'
        return text

    def json(self) -> RawInput:
        lines = []
        for _ in range(self.random.randrange(1, 60)):
            time = self.time()
            fields = {
                self.names[0]: self.json_value("A"),
                self.names[1]: self.json_value("B"),
                self.names[2]: self.pick(
                    *[str(time)] * 12, f"{time}.0", f"{time:.6e}", f"{time / 10**9!r}e9", f"{time}.5", f'"{time}"',
                    json.dumps(self.time_text()), str(time * 1000), str(time * 10**6), "null", "true", "[1]",
                    "NaN", "-Infinity",
                ),
                self.names[3]: self.pick(*["5", "1.0", "null"] * 4, "0", "6.5", '"five"', "NaN", "true", '"4"'),
                "note": self.pick('"x"', '{"timestamp": 1e9}', "[1, [2]]", '"\\u00e9\\n"'),
            }  # fmt: skip
            kept = [f"{json.dumps(key)}: {value}" for key, value in fields.items() if self.random.random() > 0.02]
            self.random.shuffle(kept)
            line = ("{" + ", ".join(kept) + "}").encode()
            junk = self.pick(
                b"", b" \t", b"null", b"17", b"{}", b"{", b"\xff\xfe", b'"text"', b"[1]", line[:-5], line + b"x"
            )
            lines.append(junk if self.random.random() < 0.08 else line)
        lines.insert(0, b"{" + b", ".join(b'"%b": 0' % name.encode() for name in self.names[:3]) + b"}")
        content = self.pick(b"\n", b"\r\n").join(lines) + self.pick(b"\n", b"")
        classified = [classify_json(line, self.names, self.settings, self.unit) for line in content.split(b"\n")]
        if content.endswith(b"\n"):
            classified.pop()
        return self.stored(self.pick("Books.json", "Books.jsonl", "Books.ndjson"), content, classified)

    def json_value(self, letter: str) -> str:
        number = self.random.randrange(9)
        return str(
            self.pick(
                *[f'"{letter}{number}"'] * 12, json.dumps(self.id_text(letter)), number, f"{number}.0", f"{number}.5",
                "1e3", "NaN", "Infinity",
                "null", "true", "false", "[]", '{"$oid": "5f"}', "76561197970982481", "7.6e+16",
                "12345678901234567890123", '"1.0"', '"true"', '"[]"', "-0", '"NaN"', '" "', "9007199254740993.0",
            )
        )  # fmt: skip

    def parquet(self) -> RawInput:
        count = self.random.randrange(1, 60)
        columns = self.columns([*OTHER_COLUMNS, "Item_ID", "reviewerid"])
        arrays = {name: pa.array(["x"] * count) for name in columns}
        user_values, arrays[self.names[0]] = self.parquet_ids("A", count)
        item_values, arrays[self.names[1]] = self.parquet_ids("B", count)
        times, arrays[self.names[2]], unit = self.parquet_times(count)
        ratings: list[float | None] = [self.pick(1.0, 5.0, 2.5, None, math.nan, 6.0) for _ in range(count)]
        if self.names[3] in columns:
            arrays[self.names[3]] = pa.array(ratings, self.pick(pa.float32(), pa.float64()))
        else:
            ratings = [None] * count
        classified: list[str | Interaction] = []
        for user, item, time, rating in zip(user_values, item_values, times, ratings, strict=True):
            rating_text = None if rating is None or math.isnan(rating) else str(rating)
            invalid = Unusable("invalid UTF-8") in (user, item)
            classified.append(
                "invalid UTF-8" if invalid else classify(user, item, time, rating_text, self.settings, unit)
            )
        table = pa.table([arrays[name] for name in columns], names=columns)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, row_group_size=self.pick(7, 1000))
        return RawInput("Books.parquet", sink.getvalue().to_pybytes(), classified)

    def parquet_ids(self, letter: str, count: int) -> tuple[list[str | Unusable], pa.Array]:
        """Make a column of ids; return the expected id of each row, and the column."""
        texts = [f"{letter}{self.random.randrange(9)}" for _ in range(count)]
        odd = [
            self.pick(None, "", " ", "NaN", "é", '"', texts[0]) if self.random.random() < 0.2 else text
            for text in texts
        ]
        numbers = [self.pick(*range(9), None) for _ in range(count)]
        floats = [self.pick(*map(float, range(9)), None, math.nan, 1.5, math.inf, 2.0**60) for _ in range(count)]
        not_scalar = {
            "true or false": pa.array([self.pick(True, False, None) for _ in range(count)]),
            "a list": pa.array([self.pick([1], [], None) for _ in range(count)], pa.list_(pa.int64())),
            "an object": pa.array([self.pick({"a": 1}, None) for _ in range(count)], pa.struct({"a": pa.int64()})),
            "a time": pa.array([self.pick(0, 1, None) for _ in range(count)], pa.timestamp("s")),
        }
        kind = self.pick(*["text"] * 4, "int", "float64", "float32", "binary", "decimal", *not_scalar)
        if kind == "text":
            column = pa.array(odd, self.pick(pa.string(), pa.large_string()))
            return [text_id(text) for text in odd], self.pick(column, column.dictionary_encode())
        if kind == "int":
            values = [text_id(None if number is None else str(number)) for number in numbers]
            return values, pa.array(numbers, self.pick(pa.int64(), pa.int8(), pa.uint64()))
        if kind == "decimal":
            values = [text_id(None if number is None else str(number)) for number in numbers]
            decimals = [None if number is None else Decimal(f"{number}.00") for number in numbers]
            return values, pa.array(decimals, pa.decimal128(20, 2))
        if kind == "binary":
            raw = [self.pick(b"\xff\xfe", b"B\xc3") if text is None else text.encode() for text in odd]
            valid = [None if text is None else text for text in odd]
            return [Unusable("invalid UTF-8") if text is None else text_id(text) for text in valid], pa.array(
                raw, pa.binary()
            )
        if kind in not_scalar:
            reason = Unusable(f"{{}} is {kind}, not text or a number")
            column = not_scalar[kind]
            return [text_id(None) if value is None else reason for value in column.to_pylist()], column
        bits = 53 if kind == "float64" else 24
        values = [text_id(None) if number is None else float_id(number, bits) for number in floats]
        return values, pa.array(floats, pa.float64() if kind == "float64" else pa.float32())

    def parquet_times(self, count: int) -> tuple[list[Timestamp], pa.Array, str]:
        """Make a column of timestamps; return the expected timestamp of each row, the column, and its unit."""
        times: list[int | None] = [self.pick(*[self.time()] * 8, None, 0, self.time() * 1000) for _ in range(count)]
        kind = self.pick("int", "int", "text", "float64", "float32", "timestamp", "date")
        if kind == "int":
            return (
                [Timestamp(None if time is None else str(time)) for time in times],
                pa.array(times, pa.int64()),
                self.unit,
            )
        if kind == "text":
            texts = [self.time_text() if time else None for time in times]
            return [Timestamp(text) for text in texts], pa.array(texts, pa.string()), self.unit
        if kind in ("float64", "float32"):
            column = pa.array(times, pa.float64()).cast(pa.float64() if kind == "float64" else pa.float32())
            rounded = None if kind == "float64" else "timestamp is a 32-bit float, which rounds it"
            texts = [None if value is None else str(int(value)) for value in column.to_pylist()]
            return [Timestamp(text, rounded) for text in texts], column, self.unit
        seconds = [None if time is None else NOON + self.random.randrange(10**6) for time in times]
        if kind == "date":
            days = [None if second is None else second // 86_400 for second in seconds]
            column = pa.array(days, pa.int32()).cast(pa.date32())
            return [Timestamp(None if day is None else str(day * 86_400_000)) for day in days], column, "milliseconds"
        unit, parts = self.pick(("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9))
        ticks = [None if second is None else second * parts + self.random.randrange(parts) for second in seconds]
        zone = self.pick(None, "UTC", "Europe/Vienna")
        column = pa.array(ticks, pa.int64()).cast(pa.timestamp(unit, zone))
        return [Timestamp(None if t is None else str(t * 1000 // parts)) for t in ticks], column, "milliseconds"

    def stored(self, name: str, content: bytes, classified: list[str | Interaction]) -> RawInput:
        if self.random.random() < 0.3:
            return RawInput(f"{name}.gz", gzip.compress(content, 1, mtime=0), classified)
        return RawInput(name, content, classified)


def check(raw_file: RawInput, number: int, settings: IngestSettings, folder: Path) -> None:
    """Ingest the input and compare the outputs with the oracle's.

    Raises:
        AssertionError: they differ.
    """
    raw = folder / raw_file.name
    raw.write_bytes(raw_file.content)
    out = [folder / "interactions.parquet", folder / "quarantine.parquet", folder / "counts.json"]
    interactions, quarantine, counts = expected(raw_file.classified, "Books")
    pieces = random.Random(number)
    try:
        with small_blocks(pieces.choice([1, 7, 64, 1000, 1 << 22]), pieces.choice([1, 5, 1 << 17])):
            ingest(raw, "Books", settings, *out)
    except TapestryError as error:
        if counts["interactions"] or not re.search("holds no rows|can't be used", str(error)):
            raise
        return
    assert counts["interactions"], "accepted without a usable row"
    same("quarantine", [(row["row"], row["reason"]) for row in pq.read_table(out[1]).to_pylist()], quarantine)
    same("interactions", pq.read_table(out[0]).to_pylist(), interactions)
    same("counts", [json.loads(out[2].read_text(encoding="utf-8"))], [{"file": raw_file.name, **counts}])


def same(what: str, found: list[Any], expected_values: list[Any]) -> None:
    only = (
        [value for value in found if value not in expected_values],
        [value for value in expected_values if value not in found],
    )
    assert found == expected_values, f"{what}: only found {only[0]}, only expected {only[1]}"


def fuzz(first: int, inputs: int, keep: Path) -> tuple[Counter[str], list[int]]:
    """Check the inputs number `first` and following.

    Returns:
        The number of inputs by file extension, and the numbers of the inputs that failed.
    """
    settings = dataclasses.replace(
        load_parameters(Path(__file__).parent.parent / "params.yaml").ingest, max_quarantine_share=1.0
    )
    kinds: Counter[str] = Counter()
    faults = []
    for number in tqdm(range(first, first + inputs), desc="inputs", disable=None, leave=False):
        raw_file = Generator(number, settings).make()
        kinds[raw_file.name.partition(".")[2]] += 1
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(raw_file, number, settings, Path(folder))
            except Exception as error:
                faults.append(number)
                kept = keep / str(number) / raw_file.name
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_bytes(raw_file.content)
                shown = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
                print(f"input {number} ({kept}): {shown[:3000]}", file=sys.stderr)
    return kinds, faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1000, help="how many to try")
    parser.add_argument("--seed", type=int, default=0, help="number of the first input")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-faults"), help="folder for the inputs that fail")
    arguments = parser.parse_args()
    kinds, faults = fuzz(arguments.seed, arguments.inputs, arguments.keep)
    shown = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    print(f"{sum(kinds.values())} inputs ({shown}), {len(faults)} faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
