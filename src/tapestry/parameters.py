"""The whole of params.yaml, for the first stage and for commands. Later stages read only their own sections."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tapestry.baselines.settings import PeerSettings
from tapestry.core.errors import TapestryError
from tapestry.core.settings import PARAMETERS, parse
from tapestry.core.yaml_file import read_yaml
from tapestry.evaluation.settings import EvaluateSettings
from tapestry.ingest.settings import IngestSettings
from tapestry.model.settings import ModelSettings
from tapestry.sessionize.settings import SessionizeSettings
from tapestry.source.settings import SourceSettings, SyntheticSettings
from tapestry.training.settings import TrainSettings

_PEERS = PeerSettings()  # for files from before this section


@dataclass(frozen=True)
class Parameters:
    """The contents of params.yaml: one field a section."""

    source: SourceSettings
    synthetic: SyntheticSettings
    ingest: IngestSettings
    sessionize: SessionizeSettings
    model: ModelSettings
    train: TrainSettings
    evaluate: EvaluateSettings
    peers: PeerSettings = _PEERS

    def __post_init__(self) -> None:
        self.sessionize.require_domains(len(self.source.domains))


def load_parameters(path: Path = PARAMETERS) -> Parameters:
    """Read and check params.yaml.

    Raises:
        TapestryError: the file can't be read (see `read_yaml`) or is no mapping, or a key is unknown, missing, of the
            wrong type or out of range; the message names the key.
    """
    values = read_yaml(path)
    try:
        return parse(Parameters, values)
    except TapestryError as error:
        raise TapestryError(f"{path}: {error}") from error
