"""Log a trained model to MLflow: its files, and the code that serves it."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tapestry

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

NAME = "tapestry"
# The packages that a model's code imports; each model pins the versions that it was trained with.
SERVED_PACKAGES = ("mlflow", "numpy", "pandas", "pyarrow", "ruamel.yaml", "safetensors", "torch")
_PACKAGE = Path(str(tapestry.__file__)).parent


def log_model(
    client: MlflowClient, run_id: str, model_folder: Path, sequences_folder: Path, tags: Mapping[str, str]
) -> str:
    """Log a model to a run: weights, settings, the item catalogue, and the code that serves them.

    Args:
        model_folder: the output of train.
        sequences_folder: the output of sessionize. Only items.parquet is logged, so no user's history leaves the
            checkout.
        tags: the tags of the logged model.

    Returns:
        Its address, models:/m-….
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    run = client.get_run(run_id)
    model = client.create_logged_model(
        run.info.experiment_id, name=NAME, source_run_id=run_id, tags=dict(tags), model_type="recommender"
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder, "model")
            with _quiet():
                _save(local, model.model_id, run_id, model_folder, sequences_folder)
                client.log_model_artifacts(model.model_id, str(local))
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    except BaseException:
        client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
        raise
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return f"models:/{model.model_id}"


def _save(path: Path, model_id: str, run_id: str, model_folder: Path, sequences_folder: Path) -> None:
    """Write the model's folder in MLflow's format."""
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import Model

    from tapestry.model.saved_files import check_weights, read_config
    from tapestry.recommending.catalogue import read_catalogue

    saved = read_config(model_folder)
    check_weights(model_folder, saved.model)
    domains = saved.domains
    items = sequences_folder / "items.parquet"
    catalogue = read_catalogue(items, domains)
    first = [str(catalogue.item_id[domain.start]) for domain in domains]
    mlflow.pyfunc.save_model(
        path=path,
        python_model=str(_PACKAGE / "tracking/served_model.py"),
        code_paths=[str(_PACKAGE)],
        artifacts={"model": str(model_folder.resolve()), "items": str(items.resolve())},
        signature=_signature(),
        input_example=pd.DataFrame({"history": [first, first[:1]], "domain": [domains[0].name, domains[-1].name]}),
        pip_requirements=[f"{name}=={_version(name)}" for name in SERVED_PACKAGES],
        mlflow_model=Model(model_id=model_id, model_uuid=model_id, run_id=run_id),
    )


def _signature() -> ModelSignature:
    """Return the types of the served model's inputs and outputs; `ServedModel.predict` explains them."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema

    text, number, count = DataType.string, DataType.double, DataType.long
    # AnyType, because MLflow cuts every id in a list of strings to its first character if the list has a null.
    entry = AnyType()  # type: ignore[no-untyped-call]
    outputs: dict[str, Any] = {
        "row": count,
        "domain": text,
        "items": Array(text),
        "scores": Array(number),
        "unknown": count,
    }
    return ModelSignature(
        inputs=Schema([ColSpec(Array(entry), "history"), ColSpec(text, "domain", required=False)]),
        outputs=Schema([ColSpec(kind, name) for name, kind in outputs.items()]),
        params=ParamSchema([ParamSpec("k", count, 10), ParamSpec("exclude_seen", DataType.boolean, True)]),
    )


def _version(package: str) -> str:
    """Return a package's version without its local part, such as +cpu: package indexes don't have it."""
    return importlib.metadata.version(package).partition("+")[0]


@contextmanager
def setting(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for the duration of the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress MLflow's progress bars and log messages for the duration of the block."""
    logger = logging.getLogger("mlflow.pyfunc")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with setting("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"):
            yield
    finally:
        logger.setLevel(level)
