"""The evidence for the claims: a checkout's files and their hashes, dvc.lock, parameters, and MLflow's runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from tapestry.audit.claims import NoEvidenceError
from tapestry.audit.records import Records, open_records
from tapestry.core.checkout import require_made
from tapestry.core.errors import TapestryError
from tapestry.core.yaml_file import read_yaml
from tapestry.parameters import Parameters, load_parameters
from tapestry.provenance.dvc_files import declared_stages, lock_hash, read_lock
from tapestry.provenance.hashes import code_hash, content_hash, dvc_md5
from tapestry.tracking.experiment import MODEL_STAGE

if TYPE_CHECKING:
    from mlflow.entities import Run

HASHED_BY_STAGE = {  # the output that a stage's tag data_hash is the hash of; {} stands for the domain or baseline
    "fetch": "data/raw/{}",
    "ingest": "data/interactions/{}.parquet",
    "sessionize": "data/sequences",
    "baseline": "data/baselines/{}.parquet",
}


class Evidence:
    """The evidence in one checkout. Each file is hashed only once."""

    def __init__(self, root: Path, lock: Path | None = None, model_run: Run | None = None) -> None:
        """
        Args:
            root: the checkout.
            lock: a dvc.lock to use instead of the checkout's.
            model_run: the model's run, if it isn't to be found by dvc.lock or by the model's hash.

        Raises:
            TapestryError: dvc.yaml, dvc.lock or params.yaml is missing or damaged.
        """
        # `declared` has the stages of dvc.yaml, `lock` what dvc.lock has of them, by their names in dvc.lock.
        self.root = root
        self._lock_path = lock or root / "dvc.lock"
        self._model_run = model_run
        self._md5: dict[str, str] = {}
        self._content: dict[str, str] = {}
        self._bar: tqdm | None = None
        require_made(self._lock_path)
        try:
            stages = read_yaml(self._lock_path)["stages"].items()
            self.values: dict[str, Any] = dict(read_yaml(root / "params.yaml"))
            self.declared: dict[str, dict[str, Any]] = declared_stages(read_yaml(root / "dvc.yaml"), self.values)
            self.lock: dict[str, dict[str, Any]] = {name: entry for name, entry in stages if name in self.declared}
            self.lock_hash = lock_hash(read_lock(self._lock_path, self.declared))
        except (KeyError, TypeError, ValueError) as error:
            raise TapestryError(f"{self._lock_path}: damaged ({error!r}); restore it with git") from error
        self.parameters: Parameters = load_parameters(root / "params.yaml")

    @cached_property
    def code_hash(self) -> str:
        """The hash of the checkout's code (`tapestry.provenance.hashes.code_hash`)."""
        return code_hash(self.root)

    def md5(self, path: str) -> str | None:
        """Return DVC's hash of a file or folder; None if it is missing."""
        if path not in self._md5:
            if not (self.root / path).exists():
                return None
            self._md5[path] = dvc_md5(self.root / path)
            self._advance(path)
        return self._md5[path]

    def content_hash(self, path: str) -> str:
        """Return the SHA-256 of a file or folder (`tapestry.provenance.hashes.content_hash`).

        Raises:
            NoEvidenceError: it is missing.
        """
        if path not in self._content:
            if not (self.root / path).exists():
                raise NoEvidenceError(f"{path} is not there", "run `dvc checkout`, or `dvc repro`")
            self._content[path] = content_hash(self.root / path)
            self._advance(path)
        return self._content[path]

    @contextmanager
    def hashing_shown(self) -> Iterator[None]:
        """Show the progress of hashing, on a terminal."""
        with tqdm(desc="hashing", unit="B", unit_scale=True, disable=None, leave=False) as self._bar:
            yield
        self._bar = None

    def _advance(self, path: str) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(path, refresh=False)
            files = [self.root / path] if (self.root / path).is_file() else (self.root / path).rglob("*")
            self._bar.update(sum(file.stat().st_size for file in files if file.is_file()))

    @cached_property
    def _found(self) -> Records | NoEvidenceError:
        try:
            return open_records()
        except NoEvidenceError as error:
            return error

    @property
    def records(self) -> Records:
        """The runs of MLflow.

        Raises:
            NoEvidenceError: MLflow has no runs, or can't be read.
        """
        if isinstance(self._found, NoEvidenceError):
            raise self._found
        return self._found

    @cached_property
    def found_model_run(self) -> Run | None:
        """Return the model's run; None if MLflow has none.

        Raises:
            NoEvidenceError: MLflow has no runs, or can't be read.
        """
        return self._model_run or self.records.find_model_run(self.lock_hash, self.content_hash("models"))

    @property
    def model_run(self) -> Run:
        """Return the model's run.

        Raises:
            NoEvidenceError: MLflow has no run of this model.
        """
        if self.found_model_run is None:
            raise NoEvidenceError("MLflow has no run of this model and dvc.lock", "run `dvc repro`")
        return self.found_model_run

    def has_model_run(self) -> bool:
        """Return whether MLflow has a run of the model and can be read."""
        try:
            return self.found_model_run is not None
        except NoEvidenceError:
            return False

    def makers(self, stage: str) -> list[Run]:
        """List the runs that produced a stage's outputs with the hashes in dvc.lock, the newest first.

        The stage's run in this experiment comes before all others, unless the stage was restored from DVC's cache.
        """
        own = self.records.stage_runs(self.model_run).get(stage)
        hashes: Mapping[str, str] = {}
        name, _, item = stage.partition("@")
        if name == MODEL_STAGE:
            hashes = {"model_hash": self.model_run.data.tags.get("model_hash", "")}
        elif own is not None and "data_hash" in own.data.tags:
            hashes = {"data_hash": own.data.tags["data_hash"]}
        elif name in HASHED_BY_STAGE and (self.root / HASHED_BY_STAGE[name].format(item)).exists():
            hashes = {"data_hash": self.content_hash(HASHED_BY_STAGE[name].format(item))}
        others = self.records.makers(stage, self.lock.get(stage, {}), hashes)
        if own is None or own.data.tags.get("restored") == "true":
            return others
        return [own, *(run for run in others if run.info.run_id != own.info.run_id)]
