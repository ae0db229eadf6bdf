"""A trial of a study: one training, by settings of the study's own params.yaml, and the ranks of its targets."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tapestry.core.atomic import atomic_folder, write_json
from tapestry.core.settings import flatten, load_section, parse
from tapestry.core.splits import TEST, VALIDATION
from tapestry.core.yaml_file import read_yaml
from tapestry.evaluation.metrics import ranking_metrics
from tapestry.evaluation.ranking import Ranks
from tapestry.evaluation.ranks import ranks_table, write_ranks
from tapestry.evaluation.scoring import rank_by_model
from tapestry.evaluation.settings import EvaluateSettings
from tapestry.evaluation.validation import validation_figures
from tapestry.model.network import Recommender
from tapestry.model.settings import ModelSettings
from tapestry.sequences.reader import Sequences
from tapestry.tracking.names import curve_metrics
from tapestry.training.loop import Epoch, train
from tapestry.training.settings import TrainSettings

if TYPE_CHECKING:
    from tapestry.tracking.runs import StageRun

T = TypeVar("T")


def changed_section(section: type[T], name: str, changes: Mapping[str, Any], params: Path) -> T:
    """Read a section of a params.yaml, with some values changed.

    Raises:
        TapestryError: a key is unknown or missing, or a value is wrong.
    """
    return parse(section, read_yaml(params)[name] | dict(changes), name)


def run_recipe(
    sequences: Sequences,
    recipe: Mapping[str, Any],
    seed: int,
    params: Path,
    folder: Path,
    split: int = TEST,
    also: Callable[[Recommender, Path], None] | None = None,
) -> None:
    """Run a trial with a recipe: what it changes in the sections `model` and `train` of a params.yaml.

    Raises:
        TapestryError: a key is unknown or missing, or a value is wrong.
    """
    run_trial(
        sequences,
        changed_section(ModelSettings, "model", recipe["model"], params),
        changed_section(TrainSettings, "train", recipe["train"] | {"seed": seed}, params),
        load_section(EvaluateSettings, "evaluate", params),
        folder,
        split,
        also,
    )


def run_trial(
    sequences: Sequences,
    model: ModelSettings,
    settings: TrainSettings,
    evaluate: EvaluateSettings,
    folder: Path,
    split: int = TEST,
    also: Callable[[Recommender, Path], None] | None = None,
) -> None:
    """Train, and write training.json and ranks.parquet (of the targets of a split) to `folder`, atomically.

    Under DVC it has a run in MLflow: settings, curves, the best epoch's validation figures, and the test figures if the
    targets are those of the test.

    Args:
        split: of the targets. A trial that serves to choose ranks those of validation, so that nothing is chosen by
            the test.
        also: writes more files, from the trained model.
    """

    def ranked(trained: Recommender, of_split: int) -> Ranks:
        targets = sequences.targets(of_split)
        return rank_by_model(trained, sequences, targets, evaluate.exclude_seen, evaluate.batch_users)

    def validate(trained: Recommender) -> dict[str, float]:
        targets, ranks = sequences.targets(VALIDATION), ranked(trained, VALIDATION)
        return validation_figures(sequences, targets, ranks, settings.stop_by, evaluate.ks)

    params = flatten(model, "model") | flatten(settings, "train") | {"evaluate.exclude_seen": evaluate.exclude_seen}
    with _tracked(params) as run:

        def show(epoch: Epoch) -> None:
            print(epoch, flush=True)
            if run is not None:
                run.log_points(curve_metrics(epoch.figures()), epoch.epoch)
                run.log_metrics(epoch.timings(), "train", epoch.epoch)

        training = train(sequences, model, settings, validate, show)
        ranks = ranked(training.model, split)
        if run is not None:
            run.log_metrics(training.best.validation, "val/best")
            if split == TEST:
                run.log_metrics(ranking_metrics(ranks.rank, evaluate.ks), "test/all")
        with atomic_folder(folder) as temporary:  # not before: a training that is killed leaves nothing
            write_json(temporary / "training.json", training.record())
            write_ranks(ranks_table(sequences, sequences.targets(split), ranks), temporary / "ranks.parquet")
            if also is not None:
                also(training.model, temporary)


def _tracked(params: Mapping[str, Any]) -> AbstractContextManager[StageRun | None]:
    """Return the trial's run in MLflow; outside DVC none, since a GPU machine may lack the packages of tracking."""
    if "DVC_STAGE" not in os.environ:
        return nullcontext()
    from tapestry.tracking.runs import trial_run

    return trial_run(params)
