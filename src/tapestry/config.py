"""params.yaml as frozen, typed sections. Unknown keys, missing keys and wrong types are errors.

Parameters are read as DVC reads them (YAML 1.2), so `1e-05` is a number. No parameter may be called
`size` or `nfiles`: DVC leaves keys of those names out of its run-cache key.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tapestry.errors import TapestryError

T = TypeVar("T")


@dataclass(frozen=True)
class SourceConfig:
    release: Literal[
        "synthetic",
        "files",
        "amazon-2014",
        "amazon-2014-5core",
        "amazon-2018",
        "amazon-2018-5core",
        "amazon-2023",
        "amazon-2023-5core",
    ]
    domains: tuple[str, ...]
    path: str | None

    def __post_init__(self) -> None:
        _require(len(self.domains) >= 2, "source.domains: at least 2 domains are needed, cross-domain as this is")
        _require(len(self.domains) <= 63, "source.domains: at most 63 domains, which a number's bits can tell apart")
        _require(len(set(self.domains)) == len(self.domains), "source.domains: a domain is named twice")
        for domain in self.domains:
            _require(
                domain != "" and all(c.isalnum() or c in "_-" for c in domain),
                f"source.domains: {domain!r} may hold only letters, digits, _ and -",
            )
        _require(
            self.path is None or "://" not in self.path,
            f"source.path: {self.path!r} is an address; stages read and write files. Copy or mount the raw files, and "
            "let a DVC remote hold what is made of them in an object store",
        )
        if self.release == "files":
            _require(self.path is not None, "source.path: release 'files' needs the folder of the raw files")


@dataclass(frozen=True)
class SyntheticConfig:
    users: int
    items: int
    mean_length: float
    domain_skew: float
    transition_strength: float
    popularity_exponent: float
    interests: int
    within_domain_effect: float
    cross_domain_effect: float
    tie_probability: float
    seed: int

    def __post_init__(self) -> None:
        _at_least("synthetic", self, 1, "users", "items", "interests")
        _at_least("synthetic", self, 5, "mean_length")
        _at_least("synthetic", self, 0, "domain_skew", "popularity_exponent", "seed")
        _fraction("synthetic", self, "transition_strength", "within_domain_effect", "cross_domain_effect")
        _fraction("synthetic", self, "tie_probability")
        _require(self.items >= self.interests, "synthetic.items: at least one item per interest is needed")
        _require(
            self.within_domain_effect + self.cross_domain_effect <= 1,
            "synthetic: within_domain_effect + cross_domain_effect is above 1; they are probabilities",
        )


@dataclass(frozen=True)
class IngestConfig:
    max_quarantine_share: float
    first_year: int
    last_year: int
    min_rating: float
    max_rating: float
    memory_limit: str
    threads: int

    def __post_init__(self) -> None:
        _fraction("ingest", self, "max_quarantine_share")
        _at_least("ingest", self, 1, "threads")
        _at_least("ingest", self, 1970, "first_year")
        _require(self.last_year <= 9998, f"ingest.last_year: {self.last_year} is above 9998")
        _require(self.first_year <= self.last_year, "ingest.first_year: must not be after ingest.last_year")
        _require(self.min_rating <= self.max_rating, "ingest.min_rating: must not be above ingest.max_rating")

    def time_range(self) -> tuple[int, int]:
        """Plausible timestamps as [first, last) in milliseconds since 1970 UTC."""
        first, last = (
            datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (self.first_year, self.last_year + 1)
        )
        return int(first.timestamp()) * 1000, int(last.timestamp()) * 1000


@dataclass(frozen=True)
class SessionizeConfig:
    item_identity: Literal["global", "domain"]
    max_contested_share: float
    min_user_interactions: int
    min_item_interactions: int
    min_domains: int
    max_length: int
    split: Literal["leave_one_out", "temporal"]
    validation_share: float
    test_share: float
    ties: Literal["hash", "row"]
    seed: int
    engine: Literal["duckdb", "spark"]
    memory_limit: str
    threads: int

    def __post_init__(self) -> None:
        _at_least("sessionize", self, 1, "min_item_interactions", "min_domains", "threads")
        _at_least("sessionize", self, 3, "max_length")
        if self.split == "leave_one_out":
            _require(
                self.min_user_interactions >= 3,
                "sessionize.min_user_interactions: leave_one_out needs at least 3 (training, validation and test item)",
            )
        _at_least("sessionize", self, 1, "min_user_interactions")
        _fraction("sessionize", self, "max_contested_share", "validation_share", "test_share")
        _require(
            self.validation_share + self.test_share < 1,
            "sessionize: validation_share + test_share leaves nothing to train on",
        )
        if self.split == "temporal":
            for name in ("validation_share", "test_share"):
                _require(
                    getattr(self, name) > 0,
                    f"sessionize.{name}: 0 leaves no {name.removesuffix('_share')} target; the temporal split needs "
                    "more, such as 0.1",
                )


@dataclass(frozen=True)
class ModelConfig:
    width: int
    layers: int
    heads: int
    window: int
    attention: Literal["intra", "full"]
    kernel: Literal["auto", "reference", "sorted", "flex", "varlen"]
    tape: bool
    tape_tied: bool
    ddsr: bool
    state_dim: int
    fusion: Literal["sum", "gate"]
    dropout: float

    def __post_init__(self) -> None:
        _at_least("model", self, 1, "width", "layers", "heads", "window", "state_dim")
        _require(0 <= self.dropout < 1, f"model.dropout: {self.dropout} is not in [0, 1)")
        for name in ("width", "state_dim"):
            _require(
                getattr(self, name) % self.heads == 0,
                f"model.{name}: {getattr(self, name)} is not divisible by model.heads = {self.heads}",
            )


@dataclass(frozen=True)
class TrainConfig:
    epochs: int
    patience: int
    batch_users: int
    learning_rate: float
    weight_decay: float
    negatives: int | None
    temperature: float
    seed: int
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    threads: int

    def __post_init__(self) -> None:
        _at_least("train", self, 1, "epochs", "patience", "batch_users", "threads")
        _at_least("train", self, 0, "weight_decay", "seed")
        _require(
            self.negatives is None or self.negatives >= 1,
            "train.negatives: at least 1, or null for all items",
        )
        _require(self.learning_rate > 0, "train.learning_rate: must be above 0")
        _require(self.temperature > 0, "train.temperature: must be above 0")


@dataclass(frozen=True)
class EvaluateConfig:
    exclude_seen: bool
    ks: tuple[int, ...]
    batch_users: int
    neighbours: int
    device: Literal["auto", "cpu", "cuda"]
    threads: int

    def __post_init__(self) -> None:
        _at_least("evaluate", self, 1, "batch_users", "neighbours", "threads")
        _require(len(self.ks) > 0, "evaluate.ks: at least one cut-off is needed")
        _require(all(k >= 1 for k in self.ks), "evaluate.ks: cut-offs are at least 1")
        _require(list(self.ks) == sorted(set(self.ks)), "evaluate.ks: must be ascending, each cut-off once")


@dataclass(frozen=True)
class Parameters:
    source: SourceConfig
    synthetic: SyntheticConfig
    ingest: IngestConfig
    sessionize: SessionizeConfig
    model: ModelConfig
    train: TrainConfig
    evaluate: EvaluateConfig


def load_parameters(path: Path = Path("params.yaml")) -> Parameters:
    """Read and check params.yaml.

    Raises:
        TapestryError: the file is missing or no YAML mapping, or a key is unknown, missing, of the wrong
            type or out of range; the message names the key.
    """
    try:
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TapestryError(f"{path} not found: run from the checkout's root") from error
    except YAMLError as error:
        raise TapestryError(f"{path} is not valid YAML: {error}") from error
    try:
        return parse(Parameters, values)
    except TapestryError as error:
        raise TapestryError(f"{path}: {error}") from error


def parse(section: type[T], values: Any, name: str = "") -> T:
    """Build the dataclass `section` from a mapping, strictly. `name` is the dotted path for messages."""
    if not isinstance(values, dict):
        raise TapestryError(f"{name or 'the file'}: expected a mapping of keys, got {values!r}")
    hints = typing.get_type_hints(section)
    for key in values:
        if key not in hints:
            raise TapestryError(f"{_join(name, key)}: unknown parameter; known are {', '.join(hints)}")
    arguments = {}
    for key, kind in hints.items():
        if key not in values:
            raise TapestryError(f"{_join(name, key)}: missing")
        arguments[key] = _convert(kind, values[key], _join(name, key))
    return section(**arguments)


def flatten(config: Any, name: str = "") -> dict[str, Any]:
    """A dataclass as {"model.width": 64, …}, the names that DVC and MLflow show."""
    flat: dict[str, Any] = {}
    for key, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            flat |= {f"{_join(name, key)}.{inner}": leaf for inner, leaf in value.items()}
        else:
            flat[_join(name, key)] = value
    return flat


def _convert(kind: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return parse(typing.cast(type, kind), value, name)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise TapestryError(f"{name}: {value!r} is not one of {', '.join(map(str, get_args(kind)))}")
        return value
    if get_origin(kind) is types.UnionType:
        if value is None:
            return None
        (kind,) = (k for k in get_args(kind) if k is not types.NoneType)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise TapestryError(f"{name}: expected a list, got {value!r}")
        return tuple(_convert(get_args(kind)[0], item, f"{name}[{i}]") for i, item in enumerate(value))
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise TapestryError(f"{name}: expected {_KINDS[kind]}, got {value!r}")
    if kind is float and not math.isfinite(value):
        raise TapestryError(f"{name}: expected a finite number, got {value!r}")
    return value


_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
}


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else str(key)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise TapestryError(message)


def _at_least(section: str, config: Any, bound: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value >= bound, f"{section}.{name}: {value} is below {bound}")


def _fraction(section: str, config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(0 <= value <= 1, f"{section}.{name}: {value} is not between 0 and 1")
