"""Where raw files come from: the simulator, a folder of the user's own, or the publishers of a release."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
import unicodedata
from pathlib import Path

from tqdm import tqdm

from tapestry.core.atomic import atomic_folder
from tapestry.core.checkout import checkout_root
from tapestry.core.errors import TapestryError
from tapestry.source.download import download
from tapestry.source.releases import RELEASES
from tapestry.source.settings import SourceSettings, SyntheticSettings
from tapestry.source.synthetic import write_domain

SHOWN = 10  # file names in a message


def find_raw_file(folder: Path, domain: str) -> Path:
    """The one raw file of `domain` in `folder`, absolute; a relative folder starts at the checkout's root.

    Accepted are [ratings_|reviews_]<domain>[_5] with .json, .jsonl, .ndjson, .csv, .tsv or .inter, each also .gz, or
    .parquet. Letters may be composed or decomposed (é as one character or two), as file systems differ in it.

    Raises:
        TapestryError: no such folder, none or several such files, or the file is empty.
    """
    resolved = checkout_root() / folder
    if not resolved.exists():
        raise TapestryError(
            f"source.path: the folder {folder} does not exist. "
            f"Relative paths start at the checkout's root; this one is {resolved}"
        )
    if not resolved.is_dir():
        raise TapestryError(f"source.path: {resolved} is a file; the folder that holds the raw files is needed")
    kinds = r"(?i:(jsonl?|ndjson|csv|tsv|inter)(\.gz)?|parquet)"
    accepted = re.compile(rf"(ratings_|reviews_)?{re.escape(_composed(domain))}(_5)?\.{kinds}")
    files = sorted(path for path in resolved.iterdir() if path.is_file())
    matches = [path for path in files if accepted.fullmatch(_composed(path.name))]
    if not matches:
        parts = [path.name for path in resolved.iterdir() if accepted.fullmatch(_composed(path.name))]
        if parts:
            raise TapestryError(
                f"source.path: {resolved / parts[0]} is a folder, as Spark writes files in parts; one file is needed: "
                "join the parts (of Parquet with DuckDB: COPY (FROM 'folder/*.parquet') TO 'file.parquet')"
            )
        raise TapestryError(
            f"source.path: no raw file of {domain} in {resolved}. Accepted are {domain}.json, .jsonl, "
            f".ndjson, .csv, .tsv or .inter, each also with .gz, and {domain}.parquet, with ratings_ or reviews_ "
            f"before {domain} and _5 after it if need be. The folder holds {_listed(files)}"
        )
    if len(matches) > 1:
        raise TapestryError(
            f"source.path: {len(matches)} raw files of {domain} in {resolved}: {_listed(matches)}. Leave one"
        )
    if matches[0].stat().st_size == 0:
        raise TapestryError(f"source.path: {matches[0]} is empty (0 bytes)")
    return matches[0]


def describe(source: SourceSettings, synthetic: SyntheticSettings) -> dict[str, dict[str, object]]:
    """By domain, what determines its raw data: {"file", "bytes", "sha256"} of a user's file, a release's address, or
    all that the simulator depends on. The same wherever the files lie: no folder is named.

    Raises:
        TapestryError: a domain's raw file cannot be found (see `find_raw_file`), or is no category of the release.
    """
    if source.release == "synthetic":
        simulator = dataclasses.asdict(synthetic)
        count = len(source.domains)
        return {
            domain: {"release": "synthetic", "domain": index, "domains": count, "synthetic": simulator}
            for index, domain in enumerate(source.domains)
        }
    if source.release in RELEASES:
        release = RELEASES[source.release]
        return {domain: {"release": release.name, "url": release.url(domain)} for domain in source.domains}
    return {domain: _described(find_raw_file(_folder(source), domain)) for domain in source.domains}


def fetch(source: SourceSettings, synthetic: SyntheticSettings, domain: str, folder: Path) -> Path:
    """Make `folder` hold exactly the raw file of `domain`, and return that file's path.

    Simulated reviews are called <domain>.json.gz; a copy of a user's file keeps its name, as does a download. That
    stays in `downloads/` at the checkout's root, where one that was cut short goes on and a whole one is found again,
    and its size and hash in `checksums.json`: a file for version control, by which later downloads are judged.

    Raises:
        TapestryError: `domain` is none of the source's, or its raw file cannot be found or downloaded.
    """
    if domain not in source.domains:
        raise TapestryError(f"{domain} is not one of source.domains: {', '.join(source.domains)}")
    if source.release == "synthetic":
        name = f"{domain}.json.gz"
        with atomic_folder(folder) as temporary:
            write_domain(synthetic, source.domains, domain, temporary / name)
    elif source.release in RELEASES:
        url = RELEASES[source.release].url(domain)
        name = url.rpartition("/")[2]
        whole = checkout_root() / "downloads" / source.release / name
        download(url, whole, checkout_root() / "checksums.json")
        with atomic_folder(folder) as temporary:
            _link(whole, temporary / name)
    else:
        raw = find_raw_file(_folder(source), domain)
        name = _composed(raw.name)
        with atomic_folder(folder) as temporary:
            _copy(raw, temporary / name)
    return folder / name


def _folder(source: SourceSettings) -> Path:
    if source.path is None:
        raise TapestryError("source.path: source.release 'files' needs the folder of the raw files")
    return Path(source.path)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _described(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": _composed(path.name), "bytes": path.stat().st_size, "sha256": digest}


def _copy(source: Path, target: Path) -> None:
    total = source.stat().st_size
    with (
        source.open("rb") as reader,
        target.open("wb") as writer,
        # disable=None: no bar where the output is not a terminal.
        tqdm.wrapattr(reader, "read", total=total, desc=source.name, disable=None, miniters=1, leave=False) as measured,
    ):
        shutil.copyfileobj(measured, writer, 1 << 20)


def _link(source: Path, target: Path) -> None:
    """The same file under a second name, or a copy where the file system has no such names."""
    try:
        target.hardlink_to(source)
    except OSError:
        _copy(source, target)


def _listed(files: list[Path]) -> str:
    if not files:
        return "no files"
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return ", ".join(path.name for path in files[:SHOWN]) + more
