"""Random raw review files in the 2018 layout, with the size and compressibility of Amazon's files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

# The 2018 release has 233 million reviews in 34 GB of gzip: 146 bytes each, about 500 decompressed.
_MEAN_WORDS = 45
_VOCABULARY = 20_000
_CHUNK = 50_000
_FIRST, _LAST = 1_262_304_000, 1_538_352_000  # 2010 to 2018, in seconds


def write_reviews(path: Path, rows: int, users: int, items: int, seed: int) -> int:
    """Write `rows` reviews sorted by item as gzipped JSON lines; return their size in bytes before compression."""
    generator = np.random.default_rng(seed)
    words = _words(generator)
    item = np.sort((items * generator.random(rows) ** 2).astype(np.int64))  # few items have most reviews
    written = 0
    with gzip.open(path, "wb", compresslevel=6) as file:
        for start in tqdm(range(0, rows, _CHUNK), desc=path.name, unit="chunk", leave=False, disable=None):
            chunk = _reviews(item[start : start + _CHUNK], users, seed, words, generator)
            file.write(chunk)
            written += len(chunk)
    return written


def _words(generator: np.random.Generator) -> npt.NDArray[np.object_]:
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    share = np.arange(len(letters), 0, -1.0)
    lengths = generator.integers(2, 10, _VOCABULARY)
    drawn = generator.choice(letters, lengths.sum(), p=share / share.sum())
    return np.array(["".join(word) for word in np.split(drawn, np.cumsum(lengths)[:-1])], dtype=object)


def _reviews(
    item: npt.NDArray[np.int64],
    users: int,
    seed: int,
    words: npt.NDArray[np.object_],
    generator: np.random.Generator,
) -> bytes:
    rows = len(item)
    user = generator.integers(0, users, rows)
    day = generator.integers(_FIRST // 86_400, _LAST // 86_400, rows) * 86_400
    rating = generator.integers(1, 6, rows)
    lengths = 1 + generator.geometric(1 / _MEAN_WORDS, rows)
    rank = (_VOCABULARY ** generator.random(lengths.sum())).astype(np.int64) - 1  # Zipf's law
    ends = np.cumsum(lengths)
    drawn = words[rank].tolist()
    lines = []
    for row in range(rows):
        text = " ".join(drawn[ends[row] - lengths[row] : ends[row]])
        review = {
            "overall": float(rating[row]),
            "verified": bool(user[row] % 5),
            "reviewTime": "09 1, 2016",
            "reviewerID": f"A{user[row] * 7_919 % 78_364_164_096:013d}",
            "asin": f"B{seed:01d}{item[row]:08d}",
            "style": {"Format:": f" {drawn[ends[row] - 1]}"},
            "reviewerName": drawn[ends[row] - lengths[row]],
            "reviewText": text,
            "summary": text[:25],
            "unixReviewTime": int(day[row]),
        }
        lines.append(json.dumps(review))
    return ("\n".join(lines) + "\n").encode()
