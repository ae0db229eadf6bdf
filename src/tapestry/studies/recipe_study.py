"""A study that compares recipes on both splits of the six domains, and takes more recipes from another study.

Its folder has params.yaml (`recipes`: what each changes in the sections `model` and `train` of ../quality/params.yaml,
and `picture`) and runs/SPLIT/RECIPE/SEED, which `train` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tapestry.core.yaml_file import read_yaml
from tapestry.sequences.reader import read_sequences
from tapestry.studies.command import run_command
from tapestry.studies.recipe_results import write_recipe_results
from tapestry.studies.results import print_means, print_pairs, read_csv, read_trials
from tapestry.studies.trials import run_recipe

_SPLITS = {"leave_one_out": "Leave-one-out", "temporal": "Temporal split"}


@dataclass(frozen=True)
class RecipeStudy:
    """The study's stages.

    folder: of the study. other_runs: the folder `runs` of the other study. names: recipe → name, in the order of the
    page's tables. against: the recipe with which results.csv compares all. pairs: those of changes.csv, see
    `write_recipe_results`.
    """

    folder: Path
    other_runs: Path
    names: Mapping[str, str]
    against: str
    pairs: Sequence[tuple[str, str]]

    def run(self, arguments: list[str]) -> None:
        """Run a stage: train SPLIT RECIPE SEED | results | show."""
        commands: dict[str, Callable[..., None]] = {
            stage.__name__: stage for stage in (self.train, self.results, self.show)
        }
        run_command(arguments, commands)

    def train(self, split: str, recipe: str, seed: str) -> None:
        """Train a recipe, and rank the test targets."""
        quality = self.folder.parent / "quality"
        sequences = read_sequences(quality / "data" / split / "sequences")
        changes = read_yaml(self.folder / "params.yaml")["recipes"][recipe]
        run = self.folder / "runs" / split / recipe / seed
        run_recipe(sequences, changes, int(seed), quality / "params.yaml", run)

    def results(self) -> None:
        """Write results.csv (means, and changes against one recipe), changes.csv (of pairs) and the picture."""
        both = (self.folder / "runs", self.other_runs)
        folders = {split: [runs / split / name for name in self.names for runs in both] for split in _SPLITS}
        tables = {
            split: {folder.name: read_trials(folder) for folder in of_split if folder.is_dir()}
            for split, of_split in folders.items()
        }
        write_recipe_results(self.folder, tables, reversed(list(self.names)), self.against, self.pairs)

    def show(self) -> None:
        """Print the page's tables from results.csv and changes.csv."""
        means, changes = read_csv(self.folder / "results.csv"), read_csv(self.folder / "changes.csv")
        for split, title in _SPLITS.items():
            rows = {row["recipe"]: row for row in means if row["data"] == split}
            print_means(f"{title}, recent counts", rows, self.names)
            print_pairs(f"{title}: change, %", [row for row in changes if row["data"] == split])
