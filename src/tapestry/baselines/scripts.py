"""The scripts of the folder `baselines/`, one for each baseline that `evaluate.baselines` may name."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tapestry.core.errors import TapestryError

if TYPE_CHECKING:  # the stage `source`, which checks the scripts in every run, must not import torch
    from tapestry.baselines.interface import Baseline

FOLDER = Path("baselines")
CLASS = "Baseline"


def check_scripts(names: Sequence[str]) -> None:
    """Check that each baseline that `evaluate.baselines` names has a script.

    Raises:
        TapestryError: one has none; the message lists those that there are.
    """
    known = sorted(path.stem for path in FOLDER.glob("*.py"))
    for name in names:
        if name not in known:
            raise TapestryError(
                f"evaluate.baselines: there is no {FOLDER}/{name}.py; known are {', '.join(known) or 'none'}"
            )


def load_baseline(name: str) -> Baseline:
    """Run the script of a baseline, and return an instance of its class `Baseline`.

    Raises:
        TapestryError: there is no such script, it needs a package that isn't installed, or it has no such class.
    """
    check_scripts([name])
    path = FOLDER / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"tapestry_baseline_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        raise TapestryError(
            f"{path}: {sys.executable} has no package {missing}; `{sys.executable} -m pip install {missing}`"
        ) from error
    made = getattr(module, CLASS, None)
    if made is None or not all(callable(getattr(made, method, None)) for method in ("fit", "scorer")):
        raise TapestryError(f"{path}: has no class {CLASS} with the methods fit and scorer (docs/baselines.md)")
    baseline: Baseline = made()
    return baseline
