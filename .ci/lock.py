"""Write the locks anew, with the hashes of all files of each version: python .ci/lock.py [--upgrade]

`requirements.lock` has what continuous integration runs. `requirements-cuda.lock` has what torch brings besides where
its build is for CUDA, as its build for Linux on the common index is. `requirements-spark.lock` has what PySpark adds.
Together they are one resolution of pyproject.toml, for the platforms and Pythons below. Versions stay where they
still fit; `--upgrade` takes the newest ones.
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
}
"""The names of packages in each lock; the last pattern that fits decides."""

HEADER = "# Exact versions of {}, by `make lock`; ranges are in pyproject.toml.\n"


def main(options: list[str]) -> None:
    entries = resolve([version for name in LOCKS for version in versions(Path(name))], options)
    texts = {file: HEADER.format(holds) for file, (_, holds) in LOCKS.items()}
    for entry in entries:
        name = package(entry)
        lock = [file for file, (pattern, _) in LOCKS.items() if pattern.match(name)][-1]
        texts[lock] += with_cpu_build(entry) if name == "torch" else entry
    for lock, text in texts.items():
        Path(lock).write_text(text, encoding="utf-8")


def versions(lock: Path) -> list[str]:
    """The `name==version` in a lock."""
    return re.findall(r"^\w\S*==\S+", lock.read_text(encoding="utf-8"), flags=re.MULTILINE) if lock.exists() else []


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


def with_cpu_build(entry: str) -> str:
    """torch's entry with the hash of its build for the CPU, where pip is set up to find that one here.

    Those builds have an index of their own, and so are not among the files of the common index.
    """
    requirement = entry.split()[0]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--ignore-installed"]
    report = json.loads(run([*command, "--report", "-", requirement]))
    (found,) = report["install"]
    digest = f"--hash=sha256:{found['download_info']['archive_info']['hashes']['sha256']}"
    if digest in entry:
        print(
            f"{requirement}: no build for the CPU alone is to be had here; its hash is not in the lock", file=sys.stderr
        )
        return entry
    return f"{entry.rstrip()} \\\n    {digest}\n"


def package(entry: str) -> str:
    return re.split(r"[=\s]", entry, maxsplit=1)[0].lower()


def run(command: list[str], folder: Path = Path()) -> str:
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main(sys.argv[1:])
