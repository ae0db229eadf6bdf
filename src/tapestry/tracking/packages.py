"""The packages that are installed where a stage runs: part of what decides a result."""

from __future__ import annotations

import re
import sys
from pathlib import Path

PACKAGES = "packages.txt"  # the artifact that holds them
_SUFFIX = ".dist-info"


def installed_packages() -> dict[str, str]:
    """{name: version}, names in lower case with hyphens, in their order.

    From the names of the folders that installers leave: reading what is in them takes each stage a tenth of a second.

    Source: https://packaging.python.org/en/latest/specifications/recording-installed-packages/
    """
    found: dict[str, str] = {}
    for entry in sys.path:
        for path in sorted(Path(entry).glob(f"*{_SUFFIX}")):
            name, _, version = path.name.removesuffix(_SUFFIX).rpartition("-")
            found.setdefault(normal_name(name), version)  # the first on the path is the one that is imported
    return dict(sorted(found.items()))


def normal_name(name: str) -> str:
    """`ruamel_yaml`, `ruamel.yaml` → `ruamel-yaml`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def packages_text(packages: dict[str, str]) -> str:
    """One `name==version` a line."""
    return "".join(f"{name}=={version}\n" for name, version in packages.items())


def read_packages(text: str) -> dict[str, str]:
    """What `packages_text` or a requirements.lock says; lines that pin nothing are left out."""
    pins = (line.partition("#")[0].partition(";")[0].split("==") for line in text.splitlines())
    return {normal_name(pin[0].strip()): pin[1].split()[0] for pin in pins if len(pin) == 2}
