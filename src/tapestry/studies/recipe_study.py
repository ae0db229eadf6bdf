"""A study that compares recipes on both splits of the six domains, and may take more recipes from another study.

Its folder has params.yaml (`recipes`: what each changes in the sections `model` and `train` of ../quality/params.yaml,
and `picture`) and runs/SPLIT/RECIPE/SEED, which `train` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tapestry.core.settings import load_section
from tapestry.core.splits import TEST
from tapestry.core.yaml_file import read_yaml
from tapestry.evaluation.ranking import Ranks
from tapestry.evaluation.ranks import ranks_table, read_ranks, write_ranks
from tapestry.evaluation.scoring import rank_by_model
from tapestry.evaluation.settings import EvaluateSettings
from tapestry.model.network import Recommender
from tapestry.sequences.reader import Sequences, read_sequences
from tapestry.studies.command import run_command
from tapestry.studies.recipe_results import write_recipe_results
from tapestry.studies.results import print_means, print_pairs, read_csv, read_trials
from tapestry.studies.trials import run_recipe

_SPLITS = {"leave_one_out": "Leave-one-out", "temporal": "Temporal split"}


@dataclass(frozen=True)
class RecipeStudy:
    """The study's stages.

    folder: of the study. names: recipe → name, in the order of the page's tables. against: the recipe with which
    results.csv compares all. pairs: those of changes.csv, see `write_recipe_results`. title: of the tables of means.
    other_runs: the folder `runs` of the other study, if any. anew: the splits under which all models are trained anew
    on validation interactions, too. changed: what changes each trained model, by name, before it ranks the test once
    more: recipe R changed by C is a recipe R_C of the tables.
    """

    folder: Path
    names: Mapping[str, str]
    against: str
    pairs: Sequence[tuple[str, str]]
    title: str = "recent counts"
    other_runs: Path | None = None
    anew: Sequence[str] = ()
    changed: Mapping[str, Callable[[Recommender], object]] = field(default_factory=dict)

    def run(self, arguments: list[str]) -> None:
        """Run a stage: train SPLIT RECIPE SEED | results | show."""
        commands: dict[str, Callable[..., None]] = {
            stage.__name__: stage for stage in (self.train, self.results, self.show)
        }
        run_command(arguments, commands)

    def train(self, split: str, recipe: str, seed: str) -> None:
        """Train a recipe, and rank the test targets; then once more by each changed model."""
        quality = self.folder.parent / "quality"
        sequences = read_sequences(quality / "data" / split / "sequences")
        changes = read_yaml(self.folder / "params.yaml")["recipes"][recipe]
        if split in self.anew:
            changes = changes | {"train": changes["train"] | {"refit": "validation"}}
        run = self.folder / "runs" / split / recipe / seed
        again = partial(self._rank_again, sequences)
        run_recipe(sequences, changes, int(seed), quality / "params.yaml", run, also=again)

    def _rank_again(self, sequences: Sequences, model: Recommender, folder: Path) -> None:
        """Rank the test targets by the model after each change."""
        settings = load_section(EvaluateSettings, "evaluate", self.folder.parent / "quality/params.yaml")
        targets = sequences.targets(TEST)
        for name, change in self.changed.items():
            change(model)
            ranks: Ranks = rank_by_model(model, sequences, targets, settings.exclude_seen, settings.batch_users)
            write_ranks(ranks_table(sequences, targets, ranks), folder / f"{name}.parquet")

    def results(self) -> None:
        """Write results.csv (means, and changes against one recipe), changes.csv (of pairs) and the picture."""
        places = [self.folder / "runs", *([] if self.other_runs is None else [self.other_runs])]
        tables = {}
        for split in _SPLITS:
            folders = [runs / split / name for name in self.names for runs in places]
            found = {folder.name: read_trials(folder) for folder in folders if folder.is_dir()}
            for name in self.changed:
                of_recipe = {folder.name: sorted(folder.glob(f"*/{name}.parquet")) for folder in folders}
                found |= {f"{recipe}_{name}": [*map(read_ranks, files)] for recipe, files in of_recipe.items() if files}
            tables[split] = found
        write_recipe_results(self.folder, tables, reversed(list(self.names)), self.against, self.pairs)

    def show(self) -> None:
        """Print the page's tables from results.csv and changes.csv."""
        means, changes = read_csv(self.folder / "results.csv"), read_csv(self.folder / "changes.csv")
        for split, title in _SPLITS.items():
            title = f"{title}, trained anew" if split in self.anew else title
            rows = {row["recipe"]: row for row in means if row["data"] == split}
            print_means(f"{title}, {self.title}", rows, self.names)
            print_pairs(f"{title}: change, %", [row for row in changes if row["data"] == split])
