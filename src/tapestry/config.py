"""params.yaml as frozen, typed sections. Unknown keys, missing keys and wrong types are errors.

Parameters are read as DVC reads them (YAML 1.2), so `1e-05` is a number. No parameter may be called
`size` or `nfiles`: DVC leaves keys of those names out of its run-cache key.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
import sys
import types
import typing
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from tapestry.bounded_yaml import read_yaml
from tapestry.errors import TapestryError, one_line, shown

T = TypeVar("T")
_Rule = Callable[[Any, str], None]
"""Raises a TapestryError about a value; the second argument is its dotted name."""


def at_most(bound: float) -> _Rule:
    return between(-math.inf, bound)


def between(low: float, high: float) -> _Rule:
    """Both bounds are allowed."""

    def rule(value: Any, name: str) -> None:
        _require(value >= low, f"{name}: {shown(value)} is below {low}")
        _require(value <= high, f"{name}: {shown(value)} is above {high}")

    return rule


def fraction(value: Any, name: str) -> None:
    _require(0 <= value <= 1, f"{name}: {shown(value)} is not between 0 and 1")


def memory_size(value: Any, name: str) -> None:
    """A size in DuckDB's own syntax, of at least what DuckDB can work with."""
    form = "a number and a unit (MB, GB, TB, MiB, GiB or TiB), such as 2GB"
    match = _MEMORY.fullmatch(value)
    if match is None:
        raise TapestryError(f"{name}: {shown(value)} is not a size; accepted is {form}")
    size = float(match["number"]) * _UNITS[match["unit"].lower()]
    _require(size >= 10**8, f"{name}: {shown(value)} is below 100MB, which DuckDB needs; accepted is {form}")
    _require(size <= 10**15, f"{name}: {shown(value)} is above 1000TB; accepted is {form}")


_UNITS = {
    f"{prefix}{unit}".lower(): base**power
    for unit, base in (("B", 1000), ("iB", 1024))
    for power, prefix in enumerate(("K", "M", "G", "T"), start=1)
}
_MEMORY = re.compile(
    rf"\s*(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[0-9]+)?)\s*(?P<unit>{'|'.join(_UNITS)})\s*",
    re.IGNORECASE | re.ASCII,
)

Count = Annotated[int, between(1, 10**9)]
Fraction = Annotated[float, fraction]
MemorySize = Annotated[str, memory_size]
Seed = Annotated[int, between(0, 2**63 - 1)]
Threads = Annotated[int, between(1, 1024)]

_LONGEST_DOMAIN = 200  # bytes; files and temporary files have longer names, of at most 255


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
                domain != "" and all(c.isalnum() or c in "_-" for c in unicodedata.normalize("NFC", domain)),
                f"source.domains: {shown(domain)} may hold only letters, digits, _ and -",
            )
            _require(
                len(domain.encode()) <= _LONGEST_DOMAIN,
                f"source.domains: {shown(domain)} is longer than {_LONGEST_DOMAIN} bytes, too long for file names",
            )
        names: dict[str, str] = {}
        for domain in self.domains:
            other = names.setdefault(unicodedata.normalize("NFC", domain).casefold(), domain)
            _require(
                other == domain,
                f"source.domains: {other!r} and {domain!r} would be one name on a file system that ignores case or "
                "how letters are composed; rename one",
            )
        _require(
            self.path is None or "://" not in self.path,
            f"source.path: {shown(self.path)} is an address; stages read and write files. Copy or mount the raw "
            "files, and let a DVC remote hold what is made of them in an object store",
        )
        if self.release == "files":
            _require(self.path is not None, "source.path: source.release 'files' needs the folder of the raw files")


@dataclass(frozen=True)
class SyntheticConfig:
    users: Annotated[int, between(1, 10**8)]
    items: Annotated[int, between(1, 10**7)]
    mean_length: Annotated[float, between(5, 10_000)]
    domain_skew: Annotated[float, between(0, 10)]
    transition_strength: Fraction
    popularity_exponent: Annotated[float, between(0, 10)]
    interests: Annotated[int, between(1, 10_000)]
    within_domain_effect: Fraction
    cross_domain_effect: Fraction
    tie_probability: Fraction
    seed: Seed

    def __post_init__(self) -> None:
        _require(
            self.users * self.mean_length <= 10**9,
            f"synthetic.users: {self.users} users of {self.mean_length} interactions (synthetic.mean_length) are above "
            "1,000,000,000 interactions",
        )
        _require(
            self.items >= self.interests,
            f"synthetic.items: at least one item per interest is needed; {self.items} are fewer than "
            f"synthetic.interests: {self.interests}",
        )
        _require(
            self.within_domain_effect + self.cross_domain_effect <= 1,
            "synthetic: within_domain_effect + cross_domain_effect is above 1; they are probabilities",
        )


@dataclass(frozen=True)
class IngestConfig:
    max_quarantine_share: Fraction
    first_year: Annotated[int, between(1970, 9998)]
    last_year: Annotated[int, between(1970, 9998)]
    min_rating: Annotated[float, between(-1e9, 1e9)]
    max_rating: Annotated[float, between(-1e9, 1e9)]
    memory_limit: MemorySize
    threads: Threads

    def __post_init__(self) -> None:
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
    max_contested_share: Fraction
    min_user_interactions: Count
    min_item_interactions: Count
    min_domains: Annotated[int, between(1, 63)]
    max_length: Annotated[int, between(3, 10**6)]
    split: Literal["leave_one_out", "temporal"]
    validation_share: Fraction
    test_share: Fraction
    ties: Literal["hash", "row"]
    seed: Annotated[int, between(-(2**63), 2**63 - 1)]
    engine: Literal["duckdb", "spark"]
    memory_limit: MemorySize
    threads: Threads

    def __post_init__(self) -> None:
        if self.split == "leave_one_out":
            _require(
                self.min_user_interactions >= 3,
                "sessionize.min_user_interactions: leave_one_out needs at least 3 (training, validation and test item)",
            )
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
    width: Annotated[int, between(1, 65_536)]
    layers: Annotated[int, between(1, 1_000)]
    heads: Annotated[int, between(1, 1_024)]
    window: Annotated[int, between(1, 10**6)]
    attention: Literal["intra", "full"]
    kernel: Literal["auto", "reference", "sorted", "flex", "varlen"]
    tape: bool
    tape_tied: bool
    ddsr: bool
    state_dim: Annotated[int, between(1, 65_536)]
    fusion: Literal["sum", "gate"]
    dropout: float

    def __post_init__(self) -> None:
        _require(0 <= self.dropout < 1, f"model.dropout: {self.dropout} is not in [0, 1)")
        for name in ("width", "state_dim"):
            _require(
                getattr(self, name) % self.heads == 0,
                f"model.{name}: {getattr(self, name)} is not divisible by model.heads = {self.heads}",
            )


@dataclass(frozen=True)
class TrainConfig:
    epochs: Annotated[int, between(1, 10**6)]
    patience: Annotated[int, between(1, 10**6)]
    batch_users: Annotated[int, between(1, 10**6)]
    learning_rate: Annotated[float, at_most(1_000)]
    weight_decay: Annotated[float, between(0, 1_000)]
    negatives: Annotated[int | None, at_most(10**9)]
    temperature: Annotated[float, at_most(1_000)]
    seed: Seed
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    threads: Threads

    def __post_init__(self) -> None:
        _require(
            self.negatives is None or self.negatives >= 1,
            "train.negatives: at least 1, or null for all items",
        )
        _require(self.learning_rate > 0, "train.learning_rate: must be above 0")
        _require(self.temperature > 0, "train.temperature: must be above 0")


@dataclass(frozen=True)
class EvaluateConfig:
    exclude_seen: bool
    ks: tuple[Annotated[int, at_most(10**9)], ...]
    batch_users: Annotated[int, between(1, 10**6)]
    neighbours: Annotated[int, between(1, 10**5)]
    device: Literal["auto", "cpu", "cuda"]
    threads: Threads

    def __post_init__(self) -> None:
        _require(len(self.ks) <= 1000, f"evaluate.ks: {len(self.ks)} cut-offs; at most 1000")
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
        TapestryError: the file can't be read (see `read_yaml`) or is no mapping, or a key is unknown, missing, of the
            wrong type or out of range; the message names the key.
    """
    values = read_yaml(path)
    try:
        return parse(Parameters, values)
    except TapestryError as error:
        raise TapestryError(f"{path}: {error}") from error


def chosen_domain(arguments: Sequence[str], domains: Sequence[str]) -> str:
    """The domain that the one argument of a stage's script names.

    Raises:
        TapestryError: there is none, or more than one, or it is none of `domains`.
    """
    accepted = f"source.domains: {', '.join(domains)}"
    if len(arguments) != 1:
        found = one_line(" ".join(arguments)) or "none"
        raise TapestryError(f"one argument is needed, found {found}; accepted is one of {accepted}")
    if arguments[0] not in domains:
        raise TapestryError(f"{shown(arguments[0])} is not one of {accepted}")
    return arguments[0]


def parse(section: type[T], values: Any, name: str = "") -> T:
    """Build the dataclass `section` from a mapping, strictly. `name` is the dotted path for messages."""
    if not isinstance(values, dict):
        raise TapestryError(f"{name or 'the file'}: expected a mapping of keys, got {shown(values)}")
    hints = typing.get_type_hints(section, include_extras=True)
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
    if get_origin(kind) is Annotated:
        base, *rules = get_args(kind)
        converted = _convert(base, value, name)
        for rule in rules if converted is not None else ():
            rule(converted, name)
        return converted
    if dataclasses.is_dataclass(kind):
        return parse(typing.cast(type, kind), value, name)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise TapestryError(f"{name}: {shown(value)} is not one of {', '.join(map(str, get_args(kind)))}")
        return value
    if get_origin(kind) is types.UnionType:
        if value is None:
            return None
        (kind,) = (k for k in get_args(kind) if k is not types.NoneType)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise TapestryError(f"{name}: expected a list, got {shown(value)}")
        return tuple(_convert(get_args(kind)[0], item, f"{name}[{i}]") for i, item in enumerate(value))
    return _scalar(kind, value, name)


def _scalar(kind: Any, value: Any, name: str) -> Any:
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise TapestryError(f"{name}: expected {_KINDS[kind]}, got {shown(value)}")
    if kind is float:
        if not abs(value) <= sys.float_info.max:
            raise TapestryError(f"{name}: expected a finite number, got {shown(value)}")
        return float(value)
    if kind is str and _CONTROL.search(value):
        raise TapestryError(f"{name}: {shown(value)} holds a control character or half a character; take it out")
    return value


_CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")
_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
}


def _join(name: str, key: str) -> str:
    shown_key = one_line(str(key))
    return f"{name}.{shown_key}" if name else shown_key


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise TapestryError(message)
