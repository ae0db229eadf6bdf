"""The file that MLflow runs to load a registered model: a model from code, with nothing pickled.

A model's folder has it beside the package as it was then (code/) and the files that it reads (artifacts/).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext

import tapestry
from tapestry.core.errors import TapestryError, shown
from tapestry.model.device import choose_device
from tapestry.model.storage import load_model
from tapestry.recommending.catalogue import read_catalogue
from tapestry.recommending.histories import parse_history
from tapestry.recommending.recommendations import recommend, requests_of_histories
from tapestry.recommending.top import Request

_BATCH = 256  # histories scored at a time


class ServedModel(PythonModel):
    """Histories and target domains → the items that the model puts first."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the weights and the catalogue from the model's own files.

        Raises:
            TapestryError: a file is missing, damaged, or of another model.
        """
        _warn_of_other_code(Path(__file__).parent / "code/tapestry", Path(str(tapestry.__file__)).parent)
        model, domains = load_model(Path(context.artifacts["model"]))
        self._model = model.to(choose_device("auto"))
        self._catalogue = read_catalogue(Path(context.artifacts["items"]), domains)

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """The items that come first for each history and domain.

        Args:
            context: not used.
            model_input: a DataFrame with `history`, a list of item ids (text, whole numbers, or {"item_id", "domain"})
                in time order, and, if wanted, `domain`, a name; all domains where it is missing or null.
            params: k, how many items (10), and exclude_seen, whether those of the history are left out.

        Returns:
            A DataFrame with a row for each history and domain: row (place in the input, from 0), domain, items and
            scores (lists, the best first), unknown (how many items of the history were left out). There are no items
            where no item of the history is known.

        Raises:
            MlflowException: an unknown domain, no list of ids, or `k` below 1; a server answers 400 with the message.
        """
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
        """A request for each row and domain; the row's place is its user's id."""
        names = frame["domain"] if "domain" in frame else [None] * len(frame)
        for place, (entries, name) in enumerate(zip(frame["history"], names, strict=True)):
            try:
                if not isinstance(entries, list | tuple | np.ndarray):
                    raise TapestryError(f"history is {shown(entries)}, expected a list of item ids")
                domains = [self._catalogue.domain_number(name)] if isinstance(name, str) else self._all_domains()
                history = parse_history(str(place), entries)
            except TapestryError as error:
                raise TapestryError(f"row {place}: {error}") from error
            yield from requests_of_histories(self._catalogue, [history], domains)

    def _all_domains(self) -> list[int]:
        return list(range(len(self._catalogue.domains)))


def _warn_of_other_code(own: Path, imported: Path) -> None:
    """Warn where this process had imported a package that differs from the model's own."""
    if own.is_dir() and _sources(own) != _sources(imported):
        warnings.warn(
            f"the model has its own tapestry, but this process had imported a different one from {imported}, which is "
            "used: load the model before any import of tapestry",
            stacklevel=2,
        )


def _sources(package: Path) -> Mapping[Path, Any]:
    return {file.relative_to(package): file.read_bytes() for file in package.rglob("*.py")}


mlflow.models.set_model(ServedModel())
