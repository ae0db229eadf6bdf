"""Finds, fingerprints and fetches raw files: simulated, from a folder of the user, or downloaded from a publisher."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
import unicodedata
from pathlib import Path

from tapestry.core.atomic import atomic_folder
from tapestry.core.checkout import checkout_root
from tapestry.core.errors import TapestryError
from tapestry.source.releases import RELEASES
from tapestry.source.settings import SourceSettings, SyntheticSettings

_MAX_SHOWN = 10  # file names in a message


def find_raw_file(folder: Path, domain: str) -> Path:
    """Find the only raw file of `domain` in `folder`; return its absolute path.

    A relative folder starts at the checkout's root. Accepted names are [ratings_|reviews_]<domain>[_5] with .json,
    .jsonl, .ndjson, .csv, .tsv or .inter, each also with .gz, or with .parquet. Letters may be composed or decomposed
    (é as one character or two), since file systems differ in this.

    Raises:
        TapestryError: the folder doesn't exist, has no such file or several, or the file is empty.
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
            f"before {domain} and _5 after it if need be. The folder holds {_list_names(files)}"
        )
    if len(matches) > 1:
        raise TapestryError(
            f"source.path: {len(matches)} raw files of {domain} in {resolved}: {_list_names(matches)}. Leave one"
        )
    if matches[0].stat().st_size == 0:
        raise TapestryError(f"source.path: {matches[0]} is empty (0 bytes)")
    return matches[0]


def fingerprints(source: SourceSettings, synthetic: SyntheticSettings) -> dict[str, dict[str, object]]:
    """Return what determines the raw data of each domain, without naming a folder.

    Returns:
        {domain: fingerprint}. The fingerprint of a user's file is its name, size and hash ("file", "bytes", "sha256"),
        of a release its name and URL, and of the simulator all settings that it depends on.

    Raises:
        TapestryError: a domain's raw file can't be found (see `find_raw_file`), or the release has no such category.
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
    return {domain: _file_fingerprint(find_raw_file(_folder(source), domain)) for domain in source.domains}


def fetch(source: SourceSettings, synthetic: SyntheticSettings, domain: str, folder: Path) -> Path:
    """Make `folder` contain only the raw file of `domain`, and return that file's path.

    Simulated reviews are in <domain>.json.gz; a copy of a user's file and a download keep their names. A download stays
    in `downloads/` at the checkout's root, where it is resumed or found again. Its size and hash are recorded in
    `checksums.json`, which belongs in version control: later downloads must equal the record.

    Raises:
        TapestryError: `domain` is not one of the source's, or its raw file can't be found or downloaded.
    """
    if domain not in source.domains:
        raise TapestryError(f"{domain} is not one of source.domains: {', '.join(source.domains)}")
    if source.release == "synthetic":
        from tapestry.source.synthetic import write_domain  # not at the top: `source` always runs, without NumPy

        name = f"{domain}.json.gz"
        with atomic_folder(folder) as temporary:
            write_domain(synthetic, source.domains, domain, temporary / name)
    elif source.release in RELEASES:
        from tapestry.source.download import download  # not at the top: `source` needs no Requests

        url = RELEASES[source.release].url(domain)
        name = url.rpartition("/")[2]
        downloaded = checkout_root() / "downloads" / source.release / name
        download(url, downloaded, checkout_root() / "checksums.json")
        with atomic_folder(folder) as temporary:
            _link(downloaded, temporary / name)
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
    """Compose letters and accents (Unicode NFC)."""
    return unicodedata.normalize("NFC", name)


def _file_fingerprint(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"file": _composed(path.name), "bytes": path.stat().st_size, "sha256": digest}


def _copy(source: Path, target: Path) -> None:
    from tqdm import tqdm

    total = source.stat().st_size
    with (
        source.open("rb") as reader,
        target.open("wb") as writer,
        # disable=None: no bar where the output is not a terminal.
        tqdm.wrapattr(reader, "read", total=total, desc=source.name, disable=None, miniters=1, leave=False) as measured,
    ):
        shutil.copyfileobj(measured, writer, 1 << 20)


def _link(source: Path, target: Path) -> None:
    """Make a hard link, or a copy where the file system has no hard links."""
    try:
        target.hardlink_to(source)
    except OSError:
        _copy(source, target)


def _list_names(files: list[Path]) -> str:
    if not files:
        return "no files"
    more = f" and {len(files) - _MAX_SHOWN} more" if len(files) > _MAX_SHOWN else ""
    return ", ".join(path.name for path in files[:_MAX_SHOWN]) + more
