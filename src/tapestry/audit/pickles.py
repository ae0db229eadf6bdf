"""The claim `pickles`: no file is a pickle, which can run code when it is loaded. Content counts, not only the name."""

from __future__ import annotations

import bz2
import io
import lzma
import pickletools
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from tapestry.audit.certificate import CERTIFICATE
from tapestry.audit.claims import Finding, failed, or_passed
from tapestry.audit.evidence import Evidence
from tapestry.tracking.store import store_file

_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".dill", ".cloudpickle")
_PACKED = (".gz", ".bz2", ".xz", ".lzma", ".z")
_HEAD = 1 << 16  # bytes of a file that are examined
_ENOUGH = 16  # valid opcodes after which a file is taken for a pickle: other formats don't have as many in a row
_PROTO = 0x80
_OLD = b"cgi("  # first bytes of pickles of protocols 0 and 1 that can run code
_UNPACKED: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": lambda head: zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, _HEAD),
    b"\x78": lambda head: zlib.decompressobj().decompress(head, _HEAD),
    b"BZh": lambda head: bz2.BZ2Decompressor().decompress(head, _HEAD),
    b"\xfd7zXZ": lambda head: lzma.LZMADecompressor().decompress(head, _HEAD),
}


def check_pickles(evidence: Evidence) -> list[Finding]:
    """Check that no file is a pickle, or an archive with one."""
    findings, count = [], 0
    with tempfile.TemporaryDirectory() as downloads:
        for path in _files(evidence, Path(downloads)):
            count += path.name != CERTIFICATE  # not counted, since only a second audit finds it
            found = what_pickle(path)
            if found:
                shown = path.relative_to(evidence.root) if path.is_relative_to(evidence.root) else path
                mend = "remove it unopened; models are safetensors and JSON, data is Parquet"
                findings.append(failed(f"{shown}: {found}", mend))
    return or_passed(findings, f"{count} files of models/, data/, metrics/, reports/ and MLflow's artifacts")


def _files(evidence: Evidence, downloads: Path) -> Iterator[Path]:
    """List the files to examine. Artifacts of a server are downloaded first: those of the experiment's runs."""
    root, store = evidence.root, store_file()
    artifacts = downloads if store is None else store.parent / "mlartifacts"
    if store is None and evidence.has_model_run():
        for run in evidence.records.stage_runs(evidence.model_run).values():
            (target := downloads / run.info.run_id).mkdir()
            evidence.records.client.download_artifacts(run.info.run_id, "", str(target))
    for folder in (*(root / name for name in ("models", "data", "metrics", "reports")), artifacts):
        yield from sorted(path for path in folder.rglob("*") if path.is_file())


def what_pickle(path: Path) -> str | None:
    """Describe how a file is a pickle or contains one; None if it isn't and doesn't."""
    bare = path
    while bare.suffix.lower() in _PACKED:
        bare = bare.with_suffix("")
    if bare.suffix.lower() in _SUFFIXES:
        return f"{bare.suffix} is the suffix of a pickle"
    head = _head(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    if Path(name).suffix.lower() in _SUFFIXES or is_pickle(file.read(_HEAD)):
                        return f"an archive with the pickle {name}"
        return None
    for magic, unpack in _UNPACKED.items():
        if head.startswith(magic):
            try:
                head = unpack(head)
            except (OSError, EOFError, zlib.error, lzma.LZMAError):
                return None
            return "a packed pickle" if is_pickle(head) else None
    return "a pickle" if is_pickle(head) else None


def is_pickle(head: bytes) -> bool:
    """Return whether bytes are the beginning of a pickle. They are parsed opcode by opcode, and never executed."""
    new = len(head) > 2 and head[0] == _PROTO and 2 <= head[1] <= 5
    if not new and head[:1] not in [_OLD[i : i + 1] for i in range(len(_OLD))]:
        return False
    count = 0
    try:
        for opcode, _, _ in pickletools.genops(io.BytesIO(head)):
            count += 1
            if opcode.name == "STOP" or (new and count == _ENOUGH):
                return count > 1
    except Exception:  # pickletools raises many classes for invalid or incomplete opcodes
        return new and count > 1 and len(head) == _HEAD
    return False


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)
