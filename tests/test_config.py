from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import modify_yaml
from ruamel.yaml import YAML

from tapestry.config import Parameters, flatten, load_parameters
from tapestry.errors import TapestryError

Load = Callable[..., Parameters]


@pytest.fixture
def values(params_yaml: Path) -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = YAML(typ="safe", pure=True).load(params_yaml)
    return loaded


@pytest.fixture
def load_with(params_yaml: Path, tmp_path: Path) -> Load:
    """Load the default parameters after setting one, by its dotted name, as DVC's `-S` does."""

    def load(name: str, value: Any) -> Parameters:
        path = tmp_path / "params.yaml"
        path.write_bytes(params_yaml.read_bytes())
        section, _, key = name.rpartition(".")
        with modify_yaml(path) as content:
            (content[section] if section else content)[key] = value
        return load_parameters(path)

    return load


def all_keys(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [key for name, inner in value.items() for key in [name, *all_keys(inner)]]
    if isinstance(value, list):
        return [key for inner in value for key in all_keys(inner)]
    return []


def test_no_parameter_has_a_name_that_dvc_leaves_out_of_its_run_cache_key(values: dict[str, Any]) -> None:
    assert {"size", "nfiles"}.isdisjoint(all_keys(values))


def test_flatten_gives_every_parameter_its_dotted_name(values: dict[str, Any], parameters: Parameters) -> None:
    expected = {f"{section}.{key}": value for section, keys in values.items() for key, value in keys.items()}
    flat = flatten(parameters)
    assert {name: list(value) if isinstance(value, tuple) else value for name, value in flat.items()} == expected


def test_flatten_puts_a_name_before_the_keys_of_one_section(values: dict[str, Any], parameters: Parameters) -> None:
    assert flatten(parameters.train, "train") == {f"train.{key}": value for key, value in values["train"].items()}


@pytest.mark.parametrize(
    ("name", "known"), [("modle", "model"), ("model.depth", "layers"), ("train.lr", "learning_rate")]
)
def test_an_unknown_parameter_is_named_and_known_ones_listed(load_with: Load, name: str, known: str) -> None:
    with pytest.raises(TapestryError, match=rf"{re.escape(name)}: unknown parameter; known are .*\b{known}\b"):
        load_with(name, 3)


@pytest.mark.parametrize("name", ["model", "model.layers", "source.path", "evaluate.ks"])
def test_a_missing_parameter_is_named(params_yaml: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(params_yaml.read_bytes())
    section, _, key = name.rpartition(".")
    with modify_yaml(path) as content:
        del (content[section] if section else content)[key]
    with pytest.raises(TapestryError, match=rf"{re.escape(name)}: missing"):
        load_parameters(path)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("model.width", "64", "model.width: expected a whole number, got '64'"),
        ("model.width", 64.0, "model.width: expected a whole number, got 64.0"),
        ("model.layers", True, "model.layers: expected a whole number, got True"),
        ("model.tape", 1, "model.tape: expected true or false, got 1"),
        ("model.tape", "true", "model.tape: expected true or false, got 'true'"),
        ("model.dropout", False, "model.dropout: expected a number, got False"),
        ("model.dropout", float("nan"), "model.dropout: expected a finite number"),
        ("model.dropout", None, "model.dropout: expected a number, got None"),
        ("train.negatives", 1.5, "train.negatives: expected a whole number, got 1.5"),
        ("train.device", "tpu", "train.device: 'tpu' is not one of auto, cpu, cuda"),
        ("sessionize.item_identity", "item", "sessionize.item_identity: 'item' is not one of global, domain"),
        ("model.attention", ["intra"], "model.attention: ['intra'] is not one of intra, full"),
        ("sessionize.memory_limit", 2, "sessionize.memory_limit: expected text, got 2"),
        ("source.path", 3, "source.path: expected text, got 3"),
        (
            "source.path",
            "s3://bucket/reviews",
            "source.path: 's3://bucket/reviews' is an address; stages read and write",
        ),
        ("source.domains", "Books", "source.domains: expected a list, got 'Books'"),
        ("source.domains", ["Books", 7], "source.domains[1]: expected text, got 7"),
        ("evaluate.ks", 10, "evaluate.ks: expected a list, got 10"),
        ("evaluate.ks", [1, "5"], "evaluate.ks[1]: expected a whole number, got '5'"),
        ("model", [1], "model: expected a mapping of keys, got [1]"),
        ("train", None, "train: expected a mapping of keys, got None"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_what_was_expected(
    load_with: Load, name: str, value: Any, complaint: str
) -> None:
    with pytest.raises(TapestryError, match=re.escape(complaint)):
        load_with(name, value)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("source.domains", ["Books"], "source.domains: at least 2 domains"),
        ("source.domains", [], "source.domains: at least 2 domains"),
        ("source.domains", ["Books", "Toys", "Books"], "source.domains: a domain is named twice"),
        ("source.domains", ["Books", "../Toys"], "source.domains: '../Toys' may hold only"),
        ("source.domains", ["Books", ""], "source.domains: '' may hold only"),
        ("source.release", "files", "source.path: release 'files' needs the folder"),
        ("synthetic.items", 3, "synthetic.items: at least one item per interest"),
        ("synthetic.tie_probability", 1.5, "synthetic.tie_probability: 1.5 is not between 0 and 1"),
        ("synthetic.cross_domain_effect", 0.9, "within_domain_effect + cross_domain_effect is above 1"),
        ("ingest.max_quarantine_share", -0.1, "ingest.max_quarantine_share: -0.1 is not between 0 and 1"),
        ("ingest.min_rating", 6, "ingest.min_rating: must not be above ingest.max_rating"),
        ("ingest.threads", 0, "ingest.threads: 0 is below 1"),
        ("sessionize.min_user_interactions", 2, "sessionize.min_user_interactions: leave_one_out needs at least 3"),
        ("sessionize.min_domains", 0, "sessionize.min_domains: 0 is below 1"),
        ("sessionize.max_length", 2, "sessionize.max_length: 2 is below 3"),
        ("sessionize.test_share", 0.9, "validation_share + test_share leaves nothing to train on"),
        ("sessionize.max_contested_share", 1.1, "sessionize.max_contested_share: 1.1 is not between 0 and 1"),
        ("model.width", 66, "model.width: 66 is not divisible by model.heads = 4"),
        ("model.state_dim", 30, "model.state_dim: 30 is not divisible by model.heads = 4"),
        ("model.dropout", 1.0, "model.dropout: 1.0 is not in [0, 1)"),
        ("model.heads", 0, "model.heads: 0 is below 1"),
        ("train.learning_rate", 0.0, "train.learning_rate: must be above 0"),
        ("train.temperature", -1.0, "train.temperature: must be above 0"),
        ("train.negatives", 0, "train.negatives: at least 1"),
        ("evaluate.ks", [], "evaluate.ks: at least one cut-off"),
        ("evaluate.ks", [10, 5], "evaluate.ks: must be ascending"),
        ("evaluate.ks", [0, 5], "evaluate.ks: cut-offs are at least 1"),
    ],
)
def test_a_value_out_of_range_is_named(load_with: Load, name: str, value: Any, complaint: str) -> None:
    with pytest.raises(TapestryError, match=re.escape(complaint)):
        load_with(name, value)


def test_the_temporal_split_allows_users_of_fewer_than_3_interactions(load_with: Load, tmp_path: Path) -> None:
    load_with("sessionize.split", "temporal")
    with modify_yaml(tmp_path / "params.yaml") as content:
        content["sessionize"]["min_user_interactions"] = 2
    assert load_parameters(tmp_path / "params.yaml").sessionize.min_user_interactions == 2


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_temporal_split_refuses_a_share_of_nothing(load_with: Load, tmp_path: Path, split: str) -> None:
    load_with(f"sessionize.{split}_share", 0)
    with modify_yaml(tmp_path / "params.yaml") as content:
        content["sessionize"]["split"] = "temporal"
    with pytest.raises(TapestryError, match=rf"sessionize\.{split}_share: 0 leaves no {split} target"):
        load_parameters(tmp_path / "params.yaml")


def test_a_number_that_dvc_writes_with_an_exponent_is_read_as_a_number(load_with: Load, tmp_path: Path) -> None:
    assert load_with("train.learning_rate", 1e-5).train.learning_rate == 1e-5
    assert "learning_rate: 1e-05" in (tmp_path / "params.yaml").read_text()


def test_a_whole_number_is_accepted_for_a_number_and_becomes_one(load_with: Load) -> None:
    rate = load_with("train.learning_rate", 1).train.learning_rate
    assert rate == 1.0
    assert type(rate) is float


def test_null_is_accepted_where_a_parameter_may_be_absent(load_with: Load) -> None:
    assert load_with("train.negatives", None).train.negatives is None


@pytest.mark.parametrize("content", ["", "- 1\n", "text\n", "3\n"])
def test_a_file_that_is_no_mapping_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(content)
    with pytest.raises(TapestryError, match=r"other\.yaml: the file: expected a mapping of keys"):
        load_parameters(path)


@pytest.mark.parametrize("content", ["model: [1\n", "a: 1\na: 2\n", "model: {width: 3\n", "\tx: 1\n"])
def test_a_file_that_is_no_yaml_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(content)
    with pytest.raises(TapestryError, match=r"other\.yaml is not valid YAML"):
        load_parameters(path)


def test_a_missing_file_is_named_with_where_to_run_from(tmp_path: Path) -> None:
    with pytest.raises(TapestryError, match=r"nowhere\.yaml not found: run from the checkout's root"):
        load_parameters(tmp_path / "nowhere.yaml")


def test_plausible_timestamps_span_whole_years_of_utc(parameters: Parameters) -> None:
    first, last = parameters.ingest.time_range()
    assert (first, last) == (788_918_400_000, 1_893_456_000_000)
