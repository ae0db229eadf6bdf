"""The row of an experiment: its model's, complete with test figures, and the rows of its other stages under it.

DVC restores from its cache what was made before, and starts no process then. So the last stage, which always runs,
looks which stages have a row in this run of the pipeline, and makes rows for the others, marked `restored`, with the
run that made the same outputs in `made_by`. No figure is ever written onto the row of another experiment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapestry.tracking.journal import FILES
from tapestry.tracking.registry import register
from tapestry.tracking.rows import find_runs, log, log_file, log_input

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MODEL_STAGE = "train"
WITHOUT_ROW = ("figures", "report")  # what they make is on the model's row
PARENT = "mlflow.parentRunId"  # the tag that puts a row under another
_MD5 = "dvc_md5/"
_NAME = "mlflow.runName"


def complete(client: MlflowClient, experiment_id: str, experiment: Mapping[str, Any], folder: Path) -> None:
    """Complete the experiment's rows; once done, doing it again changes nothing.

    A plain `dvc repro` that ran nothing, where the store has a row of the same dvc.lock, leaves all as it is.

    Args:
        experiment: what `tapestry.tracking.record.collect` found.
        folder: the journal's, with the artifacts in `files/`.
    """
    found = find_runs(client, experiment_id, {"pipeline": experiment["pipeline"]})
    ran = {stage_name(run): run for run in found if run.data.tags.get("restored") != "true"}
    row = _model_row(client, experiment_id, experiment, folder.name, ran)
    if row is None:
        return
    run_id = row.info.run_id
    restored = row.data.tags.get("restored") == "true"
    params = {key: value for key, value in experiment["params"].items() if key not in row.data.params}
    tags = experiment["tags"] | md5_tags(experiment["stages"][MODEL_STAGE]["md5"])
    curve = experiment["curve"] if restored else []
    log(client, run_id, [tuple(point) for point in (*experiment["figures"], *curve)], params, tags)
    if restored:
        for value in experiment["inputs"]:
            log_input(client, run_id, value)
    for name in experiment["artifacts"]:
        log_file(client, run_id, folder / FILES / name, name)
    under = {stage_name(run) for run in find_runs(client, experiment_id, {PARENT: run_id})}
    for stage, made in experiment["stages"].items():
        if stage == MODEL_STAGE or stage in WITHOUT_ROW:
            continue
        if stage in ran:
            log(client, ran[stage].info.run_id, tags=md5_tags(made["md5"]) | {PARENT: run_id})
        elif stage not in under:
            _restored(client, experiment_id, experiment, stage, {PARENT: run_id})
    if restored:
        client.set_terminated(run_id, "FINISHED", experiment["time"])
    register(
        client,
        run_id,
        folder / FILES / "models",
        folder / FILES / "data/sequences",
        validation=experiment["validation"],
        data_hash=tags["data_hash"],
        model_hash=tags["model_hash"],
        exclude_seen=experiment["exclude_seen"],
    )


def stage_name(run: Run) -> str:
    """`ingest@Books`: the name in dvc.yaml of the stage whose row it is."""
    stage, domain = run.data.tags.get("stage", ""), run.data.tags.get("domain")
    return f"{stage}@{domain}" if domain else stage


def _model_row(
    client: MlflowClient, experiment_id: str, experiment: Mapping[str, Any], journal: str, ran: Mapping[str, Run]
) -> Run | None:
    """The experiment's row, made if it has none; None if the store has all of it already."""
    own = find_runs(client, experiment_id, {"journal": journal}, deleted=True)
    if own:
        return own[0]
    if MODEL_STAGE in ran:
        return ran[MODEL_STAGE]
    if not experiment["dvc_exp"] and not ran:
        same = find_runs(client, experiment_id, {"stage": MODEL_STAGE, "dvc_lock": experiment["tags"]["dvc_lock"]})
        if same:
            return None
    return _restored(client, experiment_id, experiment, MODEL_STAGE, {"journal": journal})


def _restored(
    client: MlflowClient, experiment_id: str, experiment: Mapping[str, Any], stage: str, tags: Mapping[str, str]
) -> Run:
    """A new row of a stage that did not run, with the run that made its outputs."""
    made = experiment["stages"][stage]
    name, _, domain = stage.partition("@")
    own = {
        "stage": name,
        **({"domain": domain} if domain else {}),
        **{key: experiment[key] for key in ("git_commit", "code_hash", "dvc_exp", "pipeline")},
        "restored": "true",
        _NAME: f"{stage} · {experiment['name']}",
    }
    md5 = md5_tags(made["md5"])
    same = find_runs(client, experiment_id, {"stage": name} | md5)
    makers = [run for run in same if run.data.tags.get("restored") != "true"]
    if makers:
        own["made_by"] = makers[0].info.run_id
        own |= {key: value for key, value in makers[0].data.tags.items() if key in ("data_hash", "input_hash")}
    run = client.create_run(experiment_id, experiment["time"], own | md5 | dict(tags), str(own[_NAME]))
    if stage != MODEL_STAGE:
        log(client, run.info.run_id, params=made["params"])
        client.set_terminated(run.info.run_id, "FINISHED", experiment["time"])
    return run


def md5_tags(outputs: Mapping[str, str]) -> dict[str, str]:
    """Tags with DVC's own hashes of a stage's outputs, as they are in dvc.lock."""
    return {f"{_MD5}{path}": md5 for path, md5 in outputs.items()}


def made_by(run: Run, paths: Iterable[str]) -> dict[str, str]:
    """DVC's hashes of outputs by path, of those that a row has in its tags."""
    tags = run.data.tags
    return {path: tags[f"{_MD5}{path}"] for path in paths if f"{_MD5}{path}" in tags}
