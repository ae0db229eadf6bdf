"""Predict what `dvc repro` would rerun, and why, without starting a stage or changing a file.

DVC itself reads dvc.yaml and dvc.lock, hashes files and compares parameters. The planner calls it stage by stage, in
the order of execution, and adds two things that DVC's own commands don't report: what the stage `source` would write,
and which results DVC's run cache has. So the plan also covers the stages after those.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from dvc.exceptions import DvcException
from dvc.fs import LocalFileSystem
from dvc.repo import Repo
from dvc.scm import SCMError

from tapestry.core.atomic import json_text
from tapestry.core.errors import TapestryError, one_line
from tapestry.planning.overrides import FILE, with_overrides
from tapestry.planning.planner import Planner, pipeline_stages
from tapestry.planning.stage_plan import StagePlan
from tapestry.source.source import fingerprints

_SOURCE = Path("data/source")


def plan(root: Path, overrides: Sequence[str] = ()) -> list[StagePlan]:
    """Plan `dvc repro` in the checkout `root`, or `dvc exp run` with an -S for each of `overrides`, in order.

    Raises:
        TapestryError: parameters or overrides are wrong (see `with_overrides`), a raw file can't be found, or DVC
            can't read the checkout.
    """
    text, parameters = with_overrides(root / FILE, overrides)
    source_files = {
        str(root / _SOURCE / f"{domain}.json"): json_text(fingerprint)
        for domain, fingerprint in fingerprints(parameters.source, parameters.synthetic).items()
    }
    try:
        with Repo(str(root), fs=_Overlay(root / FILE, text)) as repo:
            plans = Planner(source_files).plan(repo)
        if overrides:
            with Repo(str(root)) as repo:
                names = {plan.stage for plan in plans}
                plans += [StagePlan(s.addressing, "gone") for s in pipeline_stages(repo) if s.addressing not in names]
    except SCMError as error:
        raise TapestryError(
            f"{root} is in no git repository, which DVC needs: `git init && git add --all && git commit -m start`"
        ) from error
    except DvcException as error:
        raise TapestryError(
            f"DVC can't read {root}: {one_line(str(error), 300)}; `tapestry doctor` finds what a killed process left"
        ) from error
    return plans


class _Overlay(LocalFileSystem):  # type: ignore[misc]
    """The local file system, in which the file `path` contains `text`."""

    def __init__(self, path: Path, text: str) -> None:
        super().__init__()
        self._path, self._text = path.resolve(), text

    def open(self, path: Any, mode: str = "r", encoding: str | None = None, **options: Any) -> IO[Any]:
        if Path(path).absolute() == self._path and mode in ("r", "rt"):
            return io.StringIO(self._text)
        if Path(path).absolute() == self._path and mode == "rb":
            return io.BytesIO(self._text.encode())
        opened: IO[Any] = super().open(path, mode=mode, encoding=encoding, **options)
        return opened
