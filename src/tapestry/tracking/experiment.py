"""The MLflow runs of an experiment: the model's run with its test metrics, and the runs of the other stages below it.

DVC starts no process for a stage whose outputs it restores from its cache, so such a stage logs no run. The last stage,
`record`, always runs. It finds the stages without a run in this execution of the pipeline and creates their runs, with
the tag `restored`; the tag `made_by` names the run that produced the same outputs. Metrics are never written to the run
of another experiment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapestry.core.errors import TapestryError
from tapestry.provenance.dvc_files import join_stage, split_stage
from tapestry.report.origin import with_origin
from tapestry.tracking.client import find_runs, log, log_file, log_input
from tapestry.tracking.journal import FILES
from tapestry.tracking.registry import register

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MODEL_STAGE = "train"
STAGES_WITHOUT_RUN = ("figures", "report")  # their outputs are artifacts of the model's run
REPORT = "reports/index.html"
PARENT = "mlflow.parentRunId"  # the tag with which MLflow nests a run below another
_MD5 = "dvc_md5/"
_NAME = "mlflow.runName"


def complete(client: MlflowClient, experiment_id: str, experiment: Mapping[str, Any], folder: Path) -> None:
    """Complete the experiment's runs. A second call with the same experiment changes nothing.

    Nothing is created after a plain `dvc repro` that ran no stage, if the store has a run with the same dvc.lock.

    Args:
        experiment: the result of `tapestry.tracking.record.collect`.
        folder: the journal's folder, with the artifacts in `files/`.
    """
    found = find_runs(client, experiment_id, {"pipeline": experiment["pipeline"]})
    ran = {stage_name(run): run for run in found if run.data.tags.get("restored") != "true"}
    model_run = _find_model_run(client, experiment_id, experiment, folder.name, ran)
    if model_run is None:
        return
    run_id = model_run.info.run_id
    restored = model_run.data.tags.get("restored") == "true"
    params = {key: value for key, value in experiment["params"].items() if key not in model_run.data.params}
    tags = experiment["tags"] | md5_tags(experiment["stages"][MODEL_STAGE]["md5"])
    curve = experiment["curve"] if restored else []
    log(client, run_id, [tuple(point) for point in (*experiment["figures"], *curve)], params, tags)
    if restored:
        for value in experiment["inputs"]:
            log_input(client, run_id, value)
    for name in experiment["artifacts"]:
        if name == REPORT:
            _log_report(client, model_run, folder / FILES / name)
        else:
            log_file(client, run_id, folder / FILES / name, name)
    nested = {stage_name(run) for run in find_runs(client, experiment_id, {PARENT: run_id})}
    for stage, entry in experiment["stages"].items():
        if stage == MODEL_STAGE or stage in STAGES_WITHOUT_RUN:
            continue
        if stage in ran:
            log(client, ran[stage].info.run_id, tags=md5_tags(entry["md5"]) | {PARENT: run_id})
        elif stage not in nested:
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


def report_origin(client: MlflowClient, model_run: Run) -> dict[str, str]:
    """Return the rows that MLflow's copy of the report adds: commit, DVC experiment, and the hardware of the training.

    The hardware of a restored model is that of the run that trained it.
    """
    tags = model_run.data.tags
    trained = client.get_run(tags["made_by"]).data.tags if "made_by" in tags else tags
    return {
        "Commit": tags["git_commit"],
        **({"DVC experiment": tags["dvc_exp"]} if tags.get("dvc_exp") else {}),
        "Processor": trained.get("cpu", "not recorded"),
        "Device": trained.get("device", "not recorded"),
    }


def _log_report(client: MlflowClient, model_run: Run, file: Path) -> None:
    """Log the report with its origin, which the file can't have: DVC's outputs are the same on every machine."""
    page = file.read_text(encoding="utf-8")
    with suppress(TapestryError):  # the page of an earlier version has no table for the origin
        page = with_origin(page, report_origin(client, model_run))
    client.log_text(model_run.info.run_id, page, REPORT)


def stage_name(run: Run) -> str:
    """Return the name in dvc.yaml of a run's stage, such as `ingest@Books`."""
    return join_stage(run.data.tags)


def _find_model_run(
    client: MlflowClient, experiment_id: str, experiment: Mapping[str, Any], journal: str, ran: Mapping[str, Run]
) -> Run | None:
    """Find or create the run of the experiment's model; None if the store already has a complete one."""
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
    """Create the run of a stage that DVC restored; its tag `made_by` names the run that produced the outputs."""
    entry = experiment["stages"][stage]
    named = split_stage(stage)
    own = {
        **named,
        **{key: experiment[key] for key in ("git_commit", "code_hash", "dvc_exp", "pipeline")},
        "restored": "true",
        _NAME: f"{stage} · {experiment['name']}",
    }
    md5 = md5_tags(entry["md5"])
    same = find_runs(client, experiment_id, {"stage": named["stage"]} | md5)
    makers = [run for run in same if run.data.tags.get("restored") != "true"]
    if makers:
        own["made_by"] = makers[0].info.run_id
        own |= {key: value for key, value in makers[0].data.tags.items() if key in ("data_hash", "input_hash")}
    run = client.create_run(experiment_id, experiment["time"], own | md5 | dict(tags), str(own[_NAME]))
    if stage != MODEL_STAGE:
        log(client, run.info.run_id, params=entry["params"])
        client.set_terminated(run.info.run_id, "FINISHED", experiment["time"])
    return run


def md5_tags(outputs: Mapping[str, str]) -> dict[str, str]:
    """Return the tags of a run with DVC's hashes of the stage's outputs, as dvc.lock has them."""
    return {f"{_MD5}{path}": md5 for path, md5 in outputs.items()}


def output_md5s(run: Run, paths: Iterable[str]) -> dict[str, str]:
    """Return DVC's hash of each output in `paths` that the run has a tag for."""
    tags = run.data.tags
    return {path: tags[f"{_MD5}{path}"] for path in paths if f"{_MD5}{path}" in tags}
