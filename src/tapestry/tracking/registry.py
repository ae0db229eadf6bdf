"""The registered model in MLflow: one version for each trained model; the alias `champion` marks the best."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from tapestry.core.checkout import checkout_root
from tapestry.core.errors import TapestryError, one_line, shown
from tapestry.tracking.logged_model import NAME, log_model, setting

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
VALIDATION_TAG = "validation_ndcg_10"
DECISION = "decision"


@dataclass(frozen=True)
class Registered:
    """A version of the registered model.

    Attributes:
        new: whether this call created the version.
        champion: whether the version is the champion now.
        decision: why it was made the champion, or why not.
    """

    version: int
    new: bool
    champion: bool
    decision: str


def register(
    client: MlflowClient,
    run_id: str,
    model_folder: Path,
    sequences_folder: Path,
    *,
    validation: float,
    data_hash: str,
    model_hash: str,
    exclude_seen: bool,
) -> Registered:
    """Log and register a model, unless it is registered, and make it the champion if it is the best of its kind.

    The first model becomes the champion. A later model replaces it if its validation NDCG@10 is greater, on the same
    data and with the same candidate items, whatever figure training was stopped by (`names.COMPARED_BY`). Metrics on
    different data don't compare, so a champion of other data stays until another version is chosen by hand (`choose`).
    The rule is applied only once to a version, so that a choice by hand isn't undone.

    Args:
        run_id: the model's run.
        model_folder: the output of train.
        sequences_folder: the output of sessionize.
        validation: NDCG@10 of the best epoch.
        data_hash: content hash of the sequences.
        model_hash: content hash of the model's folder; the same hash is registered only once.
        exclude_seen: `evaluate.exclude_seen` of the validation.
    """
    # Two processes may register at the same time: the second must see the first one's version and champion.
    with FileLock(checkout_root() / "mlflow.db.registry.lock"):
        version = _find_version(client, model_hash)
        new = version is None
        if version is None:
            tags = {
                "model_hash": model_hash,
                "data_hash": data_hash,
                "exclude_seen": str(exclude_seen).lower(),
                VALIDATION_TAG: repr(validation),
            }
            version = _add(client, run_id, log_model(client, run_id, model_folder, sequences_folder, tags), tags)
        current = champion(client)
        if DECISION not in version.tags:
            better, decision = _decide(version, current)
            if better:
                client.set_registered_model_alias(NAME, CHAMPION, str(version.version))
                current = version
            client.set_model_version_tag(NAME, str(version.version), DECISION, decision)
            version.tags[DECISION] = decision
    number = int(version.version)
    is_champion = current is not None and int(current.version) == number
    return Registered(number, new, is_champion, version.tags[DECISION])


def champion(client: MlflowClient) -> ModelVersion | None:
    """Return the champion; None if there is none."""
    for model in client.search_registered_models(f"name = '{NAME}'"):
        if CHAMPION in model.aliases:
            return client.get_model_version(NAME, str(model.aliases[CHAMPION]))
    return None


def versions(client: MlflowClient) -> list[ModelVersion]:
    """List all versions, the oldest first."""
    found: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{NAME}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda version: int(version.version))


def choose(client: MlflowClient, version: int | None = None, run_id: str | None = None) -> ModelVersion:
    """Make a version the champion by hand; it is given by its number or by its model's run.

    Raises:
        TapestryError: there is no such version; the message lists the existing ones.
    """
    model_hash = None if run_id is None else _model_hash(client, run_id)
    registered = versions(client)
    for found in registered:
        # Two runs can produce the same model, and only the first is registered: compare the models' hashes too.
        of_run = found.run_id == run_id or (model_hash is not None and found.tags.get("model_hash") == model_hash)
        if int(found.version) == version or of_run:
            client.set_registered_model_alias(NAME, CHAMPION, str(found.version))
            client.set_model_version_tag(NAME, str(found.version), DECISION, "made the champion by hand")
            return client.get_model_version(NAME, str(found.version))
    what = f"version {version}" if run_id is None else f"run {shown(run_id)}"
    numbers = ", ".join(f"{found.version} (run {found.run_id})" for found in registered) or "none"
    raise TapestryError(f"{what} is no version of the registered model {NAME}; there are: {numbers}")


def table(client: MlflowClient) -> Iterator[str]:
    """Yield the lines of a table of all versions; `*` marks the champion.

    Raises:
        TapestryError: no model is registered.
    """
    registered, current = versions(client), champion(client)
    if not registered:
        raise TapestryError("no registered model yet; run `dvc repro`")
    yield f"  {'version':>7}  {'val NDCG@10':>11}  {'data':8}  {'run':32}  decision"
    for found in registered:
        mark = "*" if current is not None and found.version == current.version else " "
        tags = {key: one_line(value) for key, value in found.tags.items()}
        figure, data = float(tags.get(VALIDATION_TAG, "nan")), tags.get("data_hash", "-")[:8]
        yield (
            f"{mark} {found.version:>7}  {figure:11.6f}  {data:8}  {found.run_id or '-':32}  {tags.get(DECISION, '-')}"
        )
    if current is None:
        yield "no champion: choose one with `tapestry champion --version N`"


def _model_hash(client: MlflowClient, run_id: str) -> str | None:
    """Return the model hash of a run; None if there is no such run, or it has no model."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).data.tags.get("model_hash")
    except MlflowException:
        return None


def _decide(version: ModelVersion, current: ModelVersion | None) -> tuple[bool, str]:
    """Decide whether a version becomes the champion, and say why."""
    validation = float(version.tags[VALIDATION_TAG])
    if not math.isfinite(validation):
        return False, "not made the champion: its validation NDCG@10 is no number"
    if current is None:
        return True, "made the champion: there was none"
    name = f"version {current.version}"
    if current.tags.get("data_hash") != version.tags["data_hash"]:
        return False, f"not made the champion: {name} is of other data, so their figures don't compare"
    if current.tags.get("exclude_seen") != version.tags["exclude_seen"]:
        return False, f"not made the champion: {name} was validated with another evaluate.exclude_seen"
    theirs = float(current.tags.get(VALIDATION_TAG, "nan"))
    if validation > theirs:
        return True, f"made the champion: validation NDCG@10 {validation:.6f}, {name} had {theirs:.6f}"
    return False, f"not made the champion: validation NDCG@10 {validation:.6f}, {name} has {theirs:.6f}"


def _find_version(client: MlflowClient, model_hash: str) -> ModelVersion | None:
    found = client.search_model_versions(f"name = '{NAME}' AND tags.model_hash = '{model_hash}'")
    return min(found, key=lambda version: int(version.version)) if found else None


def _add(client: MlflowClient, run_id: str, uri: str, tags: dict[str, str]) -> ModelVersion:
    """Register a logged model as a version, and link the logged model to it, as MLflow's own function does."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(NAME, description="The items that a person may want next, by domain.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    model_id = uri.removeprefix("models:/")
    # MLflow's SQL registry looks a logged model up in the process's default store, not in the client's.
    with setting("MLFLOW_TRACKING_URI", client.tracking_uri):
        version = client.create_model_version(NAME, uri, run_id, tags, await_creation_for=0, model_id=model_id)
    link = json.dumps([{"name": NAME, "version": int(version.version)}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": link})
    return version
