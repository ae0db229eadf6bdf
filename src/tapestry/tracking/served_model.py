"""The script that MLflow runs to load a registered model: a model from code, without pickle.

A logged model's folder holds this script, the package's code at the time of training (code/) and the files that the
model reads (artifacts/). MLflow runs the script also to log a model. That needs no torch, so torch is loaded only when
the model is.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext

import tapestry
from tapestry.core.errors import TapestryError, shown
from tapestry.recommending.catalogue import read_catalogue
from tapestry.recommending.histories import parse_history

if TYPE_CHECKING:
    from tapestry.recommending.top import Request

_BATCH = 256  # histories scored in one batch


class ServedModel(PythonModel):
    """Ranks the items of target domains for interaction histories."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the weights and the item catalogue from the model's folder.

        Raises:
            TapestryError: a file is missing, damaged, or of another model.
        """
        from tapestry.model.device import choose_device
        from tapestry.model.storage import load_model, read_latest_counts

        _warn_of_other_code(Path(__file__).parent / "code/tapestry", Path(str(tapestry.__file__)).parent)
        folder = Path(context.artifacts["model"])
        model, domains = load_model(folder)
        recent = read_latest_counts(folder, model)
        self._model = model.to(choose_device("auto"))
        self._catalogue = read_catalogue(Path(context.artifacts["items"]), domains, recent)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Recommend the highest-ranked items for each history and domain.

        Args:
            context: not used.
            model_input: a DataFrame with `history`, a list of item ids (text, whole numbers, or {"item_id", "domain"})
                in time order, and an optional column `domain`, a domain's name; if it is missing or null, all domains.
            params: `k`, the number of items (default 10), and `exclude_seen`, whether to omit the history's items.

        Returns:
            A DataFrame with a row for each history and domain: row (index in the input, from 0), domain, items and
            scores (lists, best first), unknown (number of unknown items in the history, which are skipped). The lists
            are empty if no item of the history is known.

        Raises:
            MlflowException: an unknown domain, no list of ids, or `k` below 1; a server responds with status 400 and
                the message.
        """
        from tapestry.recommending.recommendations import recommend

        given = {"k": 10, "exclude_seen": True, **(params or {})}
        try:
            if given["k"] < 1:
                raise TapestryError(f"k is {given['k']}, expected 1 or more")
            requests = list(self._requests(model_input))
            found = recommend(self._model, self._catalogue, requests, given["k"], given["exclude_seen"], _BATCH)
            rows = [(int(top.user_id), top.domain, top.items, top.scores, top.unknown) for top in found]
        except TapestryError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        return pd.DataFrame(rows, columns=["row", "domain", "items", "scores", "unknown"])

    def _requests(self, frame: pd.DataFrame) -> Iterator[Request]:
        """Yield a request for each row and domain; the row's index is its user id."""
        from tapestry.recommending.recommendations import requests_of_histories

        names = frame["domain"] if "domain" in frame else [None] * len(frame)
        for row, (entries, name) in enumerate(zip(frame["history"], names, strict=True)):
            try:
                if not isinstance(entries, list | tuple | np.ndarray):
                    raise TapestryError(f"history is {shown(entries)}, expected a list of item ids")
                domains = [self._catalogue.domain_number(name)] if isinstance(name, str) else self._all_domains()
                history = parse_history(str(row), entries)
            except TapestryError as error:
                raise TapestryError(f"row {row}: {error}") from error
            yield from requests_of_histories(self._catalogue, [history], domains)

    def _all_domains(self) -> list[int]:
        return list(range(len(self._catalogue.domains)))


def _warn_of_other_code(own: Path, imported: Path) -> None:
    """Warn if this process has already imported a tapestry package that differs from the model's own."""
    if own.is_dir() and _sources(own) != _sources(imported):
        warnings.warn(
            f"the model has its own tapestry, but this process has already imported a different one from {imported}, "
            "which is used instead: load the model before any import of tapestry",
            stacklevel=2,
        )


def _sources(package: Path) -> Mapping[Path, Any]:
    return {file.relative_to(package): file.read_bytes() for file in package.rglob("*.py")}


mlflow.models.set_model(ServedModel())
