"""Fixtures that many modules share: the default parameters and the real Amazon reviews beside the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import find_browser
from filelock import FileLock
from tiny_checkout import NARROW, experiment, make_checkout

from tapestry.ingest.ingest import ingest
from tapestry.parameters import Parameters, load_parameters
from tapestry.sessionize.sessionize import DomainInput

pytest_plugins = ["http_site", "review_files"]  # fixtures of several test modules

ROOT = Path(__file__).parents[1]
AMAZON = ROOT.parent / "shared" / "amazon"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_data: reads the real reviews in ../shared/amazon; skipped without them")


@pytest.fixture(scope="session")
def params_yaml() -> Path:
    return ROOT / "params.yaml"


@pytest.fixture(scope="session")
def parameters(params_yaml: Path) -> Parameters:
    """The defaults; tests vary them with `dataclasses.replace`."""
    return load_parameters(params_yaml)


@pytest.fixture(scope="session")
def amazon() -> Path:
    if not AMAZON.is_dir():
        if os.environ.get("TAPESTRY_REQUIRE_REAL_DATA"):
            pytest.fail(f"{AMAZON} is required here and not there")
        pytest.skip(f"no real reviews: {AMAZON} is not there")
    return AMAZON


@pytest.fixture(scope="session")
def six_domains(
    amazon: Path, parameters: Parameters, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, DomainInput]:
    """The six real domains, ingested with the defaults."""
    folder = tmp_path_factory.mktemp("six-domains")
    inputs = {}
    for raw in sorted((amazon / "six-domains").iterdir()):
        domain = raw.name.removesuffix(".json.gz")
        inputs[domain] = DomainInput(folder / f"{domain}.parquet", folder / f"{domain}.json")
        quarantine = folder / f"{domain}-quarantine.parquet"
        ingest(raw, domain, parameters.ingest, inputs[domain].interactions, quarantine, inputs[domain].counts)
    return inputs


def made_once(name: str, make: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Call `make` with the path of a checkout, unless another of pytest's processes has; return the path."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    made = folder / "made"
    with FileLock(f"{folder}.lock"):
        if not made.exists():
            make(folder / "checkout")
            made.touch()
    return folder / "checkout"


@pytest.fixture(scope="session")
def reproduced(parameters: Parameters, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkout after its first `dvc repro`; to copy, not to change. One for all of pytest's processes."""
    return made_once("reproduced", lambda folder: make_checkout(folder, parameters), tmp_path_factory)


@pytest.fixture(scope="session")
def narrowed(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `reproduced` after the DVC experiment `narrow`; to copy, not to change. One for all processes."""

    def make(folder: Path) -> None:
        shutil.copytree(reproduced, folder, symlinks=True)
        settings = [word for setting in NARROW for word in ("-S", setting)]
        assert experiment(folder, "--name", "narrow", *settings) == {"train", "evaluate", "figures", "report"}

    return made_once("narrowed", make, tmp_path_factory)


@pytest.fixture
def browser() -> str:
    """The path of a Chromium; the test is skipped where there is none."""
    found = find_browser()
    if found is None:
        if os.environ.get("TAPESTRY_REQUIRE_BROWSER"):
            pytest.fail("a Chromium is required here and not there")
        pytest.skip("no Chromium is installed")
    return found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many bytes; skips where this user may not."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this user may not mount a file system")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
