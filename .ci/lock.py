"""Resolve pyproject.toml again and write the locks, with the hashes of all files: python .ci/lock.py [--upgrade]

`requirements.lock` has the packages of continuous integration. `requirements-cuda.lock` has the packages that torch's
build for CUDA needs in addition; the build for Linux on the common index is one for CUDA. `requirements-spark.lock` has
those that PySpark adds, `requirements-peers.lock` that of the baseline `als`. All four are from one resolution, for the
platforms and Pythons below. A version stays the same if it still fits; `--upgrade` takes the newest versions.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

RESOLVER = "uv==0.13.9"
PLATFORMS = "python_full_version < '3.15' and sys_platform != 'win32'"
BUILD = "hatchling\neditables\n"  # what `pip install --no-build-isolation --editable .` wants
LOCKS = {
    "requirements.lock": (re.compile(""), "what continuous integration runs"),
    "requirements-cuda.lock": (re.compile(r"(nvidia|cuda)-|triton$"), "what torch's build for CUDA adds"),
    "requirements-spark.lock": (re.compile(r"(pyspark|py4j)$"), "what PySpark adds"),
    "requirements-peers.lock": (re.compile(r"implicit$"), "what the baseline als adds"),
}
"""The names of packages in each lock; the last pattern that fits decides."""

HEADER = "# Exact versions of {}, by `make lock`; ranges are in pyproject.toml.\n"


def main(options: list[str]) -> None:
    before = "".join(Path(name).read_text(encoding="utf-8") for name in LOCKS if Path(name).exists())
    entries = resolve(versions(before), options)
    texts = {file: HEADER.format(holds) for file, (_, holds) in LOCKS.items()}
    for entry in entries:
        name = package(entry)
        lock = [file for file, (pattern, _) in LOCKS.items() if pattern.match(name)][-1]
        texts[lock] += with_cpu_builds(entry, before) if name == "torch" else entry
    for lock, text in texts.items():
        Path(lock).write_text(text, encoding="utf-8")


def versions(locked: str) -> list[str]:
    """The `name==version` in locks."""
    return re.findall(r"^\w\S*==\S+", locked, flags=re.MULTILINE)


def resolve(locked: list[str], options: list[str]) -> list[str]:
    """The entries of one lock for all: `name==version ; marker` and its hashes, on several lines."""
    with tempfile.TemporaryDirectory(prefix="tapestry-lock-") as temporary:
        folder = Path(temporary)
        run([sys.executable, "-m", "venv", str(folder / "venv")])
        run([str(folder / "venv/bin/python"), "-m", "pip", "install", "--quiet", RESOLVER])
        project = Path("pyproject.toml").read_text(encoding="utf-8") + f'\n[tool.uv]\nenvironments = ["{PLATFORMS}"]\n'
        (folder / "pyproject.toml").write_text(project, encoding="utf-8")
        (folder / "build.in").write_text(BUILD, encoding="utf-8")
        (folder / "all.txt").write_text("\n".join(locked), encoding="utf-8")
        compile_ = [str(folder / "venv/bin/uv"), "pip", "compile", "--quiet", "--universal", "--generate-hashes"]
        plain = [
            "--no-annotate",
            "--no-header",
            "--all-extras",
            str(folder / "pyproject.toml"),
            str(folder / "build.in"),
        ]
        run([*compile_, *plain, "--output-file", "all.txt", *options], folder)
        text = (folder / "all.txt").read_text(encoding="utf-8").replace(f" ; {PLATFORMS}", "")
    return [entry for entry in re.split(r"^(?=\w)", text, flags=re.MULTILINE) if entry.strip()]


def with_cpu_builds(entry: str, before: str) -> str:
    """torch's entry with the hashes of its builds for the CPU: those in `before`, and that for this machine.

    They have an index of their own, and so are not among the files of the common one. pip has to be set up to find it.
    """
    requirement = entry.split()[0]
    known = re.search(rf"^{re.escape(requirement)}\b[^=]*\n(?:    .*\n)*", before, flags=re.MULTILINE)
    digests = re.findall(r"sha256:\w+", known.group()) if known else []
    pip = [sys.executable, "-m", "pip"]
    if f"{requirement.removeprefix('torch==')}+cpu" in run([*pip, "index", "versions", "torch"]):
        options = ["--quiet", "--dry-run", "--no-deps", "--ignore-installed", "--report", "-"]
        (found,) = json.loads(run([*pip, "install", *options, f"{requirement}+cpu"]))["install"]
        digests.append(f"sha256:{found['download_info']['archive_info']['hashes']['sha256']}")
    more = sorted(set(digests) - set(re.findall(r"sha256:\w+", entry)))
    return "".join([entry.rstrip(), *(f" \\\n    --hash={digest}" for digest in more), "\n"])


def package(entry: str) -> str:
    return re.split(r"[=\s]", entry, maxsplit=1)[0].lower()


def run(command: list[str], folder: Path = Path()) -> str:
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main(sys.argv[1:])
