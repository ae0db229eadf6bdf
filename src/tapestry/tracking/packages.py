"""The installed packages: they affect a result as code does."""

from __future__ import annotations

import re
import sys
from pathlib import Path

PACKAGES_FILE = "packages.txt"  # the artifact that lists them
_SUFFIX = ".dist-info"


def installed_packages() -> dict[str, str]:
    """Return {name: version} of the installed packages, names in lower case with hyphens, in alphabetical order.

    Names and versions are read from the names of the `.dist-info` folders: reading their files would add 0.1 s to each
    stage.

    Source: https://packaging.python.org/en/latest/specifications/recording-installed-packages/
    """
    found: dict[str, str] = {}
    for entry in sys.path:
        for path in sorted(Path(entry).glob(f"*{_SUFFIX}")):
            name, _, version = path.name.removesuffix(_SUFFIX).rpartition("-")
            found.setdefault(normal_name(name), version)  # Python imports the first one on the path
    return dict(sorted(found.items()))


def normal_name(name: str) -> str:
    """Normalise a package name: `ruamel_yaml`, `ruamel.yaml` → `ruamel-yaml`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def packages_text(packages: dict[str, str]) -> str:
    """Format packages as one `name==version` a line."""
    return "".join(f"{name}=={version}\n" for name, version in packages.items())


def read_packages(text: str) -> dict[str, str]:
    """Parse the output of `packages_text`, or a requirements.lock; lines that pin no version are skipped."""
    pins = (line.partition("#")[0].partition(";")[0].split("==") for line in text.splitlines())
    return {normal_name(pin[0].strip()): pin[1].split()[0] for pin in pins if len(pin) == 2}
