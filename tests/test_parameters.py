"""The parameters of params.yaml: types, ranges and error messages."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import duckdb
import pytest
from dvc.utils.serialize import modify_yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from tapestry.core.bounds import memory_size
from tapestry.core.errors import TapestryError
from tapestry.core.settings import flatten, parse
from tapestry.parameters import Parameters, load_parameters

ROOT = Path(__file__).parents[1]
Load = Callable[..., Parameters]


@pytest.fixture
def values(params_yaml: Path) -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = YAML(typ="safe", pure=True).load(params_yaml)
    return loaded


@pytest.fixture
def load_with(params_yaml: Path, tmp_path: Path) -> Load:
    """Return a function that loads the default parameters after setting one of them, as DVC's `-S` does."""

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


def test_no_parameter_has_a_name_that_dvc_omits_from_its_run_cache_key(values: dict[str, Any]) -> None:
    assert {"size", "nfiles"}.isdisjoint(all_keys(values))


def test_flatten_returns_each_parameter_by_its_dotted_name(values: dict[str, Any], parameters: Parameters) -> None:
    expected = {f"{section}.{key}": value for section, keys in values.items() for key, value in keys.items()}
    flat = flatten(parameters)
    assert {name: list(value) if isinstance(value, tuple) else value for name, value in flat.items()} == expected


def test_flatten_prefixes_the_keys_of_a_section(values: dict[str, Any], parameters: Parameters) -> None:
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
        (
            "model.attention",
            ["intra"],
            "model.attention: ['intra'] is not one of intra, full, intra_full, intra_and_full",
        ),
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
        ("source.domains", [], "source.domains: at least 1 domain is needed"),
        ("source.domains", ["Books"], "sessionize.min_domains: 2 is above 1, the number of domains in source.domains"),
        ("sessionize.min_domains", 6, "sessionize.min_domains: 6 is above 5, the number of domains in source.domains"),
        ("source.domains", ["Books", "Toys", "Books"], "source.domains: a domain is named twice"),
        ("source.domains", ["Books", "../Toys"], "source.domains: '../Toys' may hold only"),
        ("source.domains", ["Books", ""], "source.domains: '' may hold only"),
        ("source.release", "files", "source.path: source.release 'files' needs the folder"),
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
        ("train.warmup_epochs", 12, "train.warmup_epochs: 12 must be below train.epochs: 12"),
        ("train.plateau_factor", 0.0, "train.plateau_factor: must be above 0"),
        ("train.plateau_factor", 1.5, "train.plateau_factor: 1.5 is not between 0 and 1"),
        ("train.stop_by", "ndcg", "train.stop_by: 'ndcg' is no validation figure; accepted are hr_K, ndcg_K (K from 1"),
        ("evaluate.ks", [], "evaluate.ks: at least one cut-off"),
        ("evaluate.ks", [10, 5], "evaluate.ks: must be ascending"),
        ("evaluate.ks", [0, 5], "evaluate.ks: cut-offs are at least 1"),
        ("evaluate.sampled_negatives", 0, "evaluate.sampled_negatives: 0 is below 1"),
        ("evaluate.ks", list(range(1, 1002)), "evaluate.ks: 1001 cut-offs; at most 1000"),
        ("evaluate.ks", [1, 10**30], f"evaluate.ks[1]: {10**30} is above 1000000000"),
        (
            "source.domains",
            ["Books", "BOOKS"],
            "source.domains: 'Books' and 'BOOKS' would be one name on a file system",
        ),
        ("source.domains", ["\u212b", "\u00e5"], "source.domains: '\u212b' and '\u00e5' would be one name"),
        ("source.domains", ["Books", "\u00e9" * 101], "is longer than 200 bytes, too long for file names"),
        ("source.path", "raw\0files", r"source.path: 'raw\x00files' holds a control character"),
        ("source.path", "raw\x1b[2J", r"source.path: 'raw\x1b[2J' holds a control character"),
        ("synthetic.users", 10**8, "synthetic.users: 100000000 users of 24.0 interactions (synthetic.mean_length) are"),
    ],
)
def test_a_value_out_of_range_is_named(load_with: Load, name: str, value: Any, complaint: str) -> None:
    with pytest.raises(TapestryError, match=re.escape(complaint)):
        load_with(name, value)


NUMBERS = {
    name: kind
    for section, of in get_type_hints(Parameters).items()
    for name, kind in {f"{section}.{key}": hint for key, hint in get_type_hints(of).items()}.items()
    if kind in (int, float, int | None)
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [2**64, 10**30, -(2**64), -(10**30), 10**400])
def test_each_number_has_a_bound(values: dict[str, dict[str, Any]], name: str, value: int) -> None:
    section, key = name.split(".")
    changed = values | {section: values[section] | {key: value}}
    with pytest.raises(
        TapestryError, match=rf"^{re.escape(name)}: .*(is (above|below|not)|at least|must be|finite)"
    ) as failure:
        parse(Parameters, changed)
    assert len(str(failure.value)) < 250


@pytest.mark.parametrize("name", [name for name in NUMBERS if name.endswith(".threads")])
def test_threads_have_a_bound(load_with: Load, name: str) -> None:
    load_with(name, 1024)
    with pytest.raises(TapestryError, match=f"{name}: 1000000000000 is above 1024"):
        load_with(name, 10**12)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("lots", "'lots' is not a size; accepted is a number and a unit (MB, GB, TB, MiB, GiB or TiB), such as 2GB"),
        ("-1GB", "'-1GB' is not a size"),
        ("-1", "'-1' is not a size"),
        ("80%", "'80%' is not a size"),
        ("2", "'2' is not a size"),
        ("2PB", "'2PB' is not a size"),
        ("", "'' is not a size"),
        ("infGB", "'infGB' is not a size"),
        ("\u0662GB", "is not a size"),
        ("1B", "'1B' is not a size"),
        ("0GB", "'0GB' is below 100MB, which DuckDB needs"),
        ("99.9MB", "'99.9MB' is below 100MB"),
        ("1e400GB", "'1e400GB' is above 1000TB"),
        ("1001TB", "'1001TB' is above 1000TB"),
        ("9" * 900 + "GB", "is above 1000TB"),
    ],
)
@pytest.mark.parametrize("section", ["ingest", "sessionize"])
def test_an_invalid_memory_limit_is_refused(load_with: Load, section: str, value: str, complaint: str) -> None:
    with pytest.raises(
        TapestryError, match=re.escape(f"{section}.memory_limit: {complaint}" if "'" in complaint else complaint)
    ):
        load_with(f"{section}.memory_limit", value)


SIZES = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["", " "]),
    st.integers(0, 10**7)
    | st.floats(0, 10**5, allow_subnormal=False)
    | st.sampled_from([".5", "2.", "1e3", "1.5e2", "1e+2"]),
    st.sampled_from(["", " ", "  "]),
    st.sampled_from(["KB", "kb", "MB", "Mb", "GB", "gb", "TB", "KiB", "MiB", "mib", "GiB", "TiB"]),
    st.sampled_from(["", " "]),
)


DUCKDB = duckdb.connect()  # to open one for each example takes most of the time


@settings(max_examples=300, deadline=None)
@given(SIZES)
def test_duckdb_reads_every_accepted_memory_limit_as_the_size_that_was_checked(text: str) -> None:
    number, unit = re.fullmatch(r"\s*([0-9.e+-]+)\s*(\w+)\s*", text).groups()  # type: ignore[union-attr]
    scale = {"k": 1, "m": 2, "g": 3, "t": 4}[unit[0].lower()]
    expected = float(number) * (1024 if "i" in unit else 1000) ** scale
    try:
        memory_size(text, "ingest.memory_limit")
    except TapestryError:
        assert expected < 10**8 or expected > 10**15 or "e-" in text or "e+" in text
        return
    assert 10**8 <= expected <= 10**15
    (read,) = DUCKDB.execute("SELECT parse_formatted_bytes(?)", [text]).fetchone()  # type: ignore[misc]
    assert read == pytest.approx(expected, abs=1)
    DUCKDB.execute(f"SET memory_limit = '{text}'")


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**40), 10**40)
    | st.floats()
    | st.text(max_size=30)
    | st.dates()
    | st.binary(max_size=5)
    | st.sampled_from(["9" * 900, "0x" + "f" * 900, "1e999", "-.inf", ".nan", "2GB", "1:30", "0o17", "~", "yes", "on"])
)


DEFAULTS: dict[str, dict[str, Any]] = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
AS_JSON = {section: json.dumps(values) for section, values in DEFAULTS.items()}  # which is YAML too


@settings(max_examples=400, deadline=None)
@example("synthetic.interests", 501, 0)  # a rule about two keys: the message names either
@example("source.release", "files", 0)
@given(st.sampled_from(sorted(flatten(load_parameters(ROOT / "params.yaml")))), SCALARS, st.integers(0, 2))
def test_any_scalar_for_any_key_is_accepted_or_refused_by_name_quickly(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: Any, depth: int
) -> None:
    section, key = name.split(".")
    for _ in range(depth):
        value = [value]
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    with path.open("w", encoding="utf-8", errors="surrogatepass") as file:
        YAML(typ="safe", pure=True).dump({section: DEFAULTS[section] | {key: value}}, file)
        file.writelines(f"{other}: {text}\n" for other, text in AS_JSON.items() if other != section)
    started = time.process_time()
    try:
        taken = getattr(getattr(load_parameters(path), section), key)
    except TapestryError as error:
        message = str(error)
    else:
        assert taken == (tuple(value) if isinstance(value, list) else value)
        message = f"{path}: {name}"
    assert time.process_time() - started < 1
    assert re.match(rf"{re.escape(str(path))}.*(\b{section}\.{key}\b|: {section}: .*{key}|line \d+:)", message)
    assert message.isprintable()


def test_the_temporal_split_allows_users_of_fewer_than_3_interactions(load_with: Load, tmp_path: Path) -> None:
    load_with("sessionize.split", "temporal")
    with modify_yaml(tmp_path / "params.yaml") as content:
        content["sessionize"]["min_user_interactions"] = 2
    assert load_parameters(tmp_path / "params.yaml").sessionize.min_user_interactions == 2


@pytest.mark.parametrize(("name", "value"), [("truncate", "before"), ("order", "given")])
def test_the_temporal_split_refuses_what_belongs_to_other_splits(
    load_with: Load, tmp_path: Path, name: str, value: str
) -> None:
    load_with(f"sessionize.{name}", value)
    with modify_yaml(tmp_path / "params.yaml") as content:
        content["sessionize"]["split"] = "temporal"
    with pytest.raises(TapestryError, match=rf"sessionize\.{name}: {value} is for leave_one_out and given splits"):
        load_parameters(tmp_path / "params.yaml")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_temporal_split_refuses_a_share_of_zero(load_with: Load, tmp_path: Path, split: str) -> None:
    load_with(f"sessionize.{split}_share", 0)
    with modify_yaml(tmp_path / "params.yaml") as content:
        content["sessionize"]["split"] = "temporal"
    with pytest.raises(TapestryError, match=rf"sessionize\.{split}_share: 0 leaves no {split} target"):
        load_parameters(tmp_path / "params.yaml")


def test_a_number_in_dvcs_exponent_notation_is_read_as_a_number(load_with: Load, tmp_path: Path) -> None:
    assert load_with("train.learning_rate", 1e-5).train.learning_rate == 1e-5
    assert "learning_rate: 1e-05" in (tmp_path / "params.yaml").read_text()


def test_an_integer_is_accepted_for_a_float_and_converted(load_with: Load) -> None:
    rate = load_with("train.learning_rate", 1).train.learning_rate
    assert rate == 1.0
    assert type(rate) is float


def test_null_is_accepted_for_an_optional_parameter(load_with: Load) -> None:
    assert load_with("train.negatives", None).train.negatives is None


@pytest.mark.parametrize("content", ["", "- 1\n", "text\n", "3\n"])
def test_a_file_that_is_no_mapping_is_refused_and_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(content)
    with pytest.raises(TapestryError, match=r"other\.yaml: the file: expected a mapping of keys"):
        load_parameters(path)


@pytest.mark.parametrize("content", ["model: [1\n", "a: 1\na: 2\n", "model: {width: 3\n", "\tx: 1\n"])
def test_a_file_that_is_no_yaml_is_refused_and_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(content)
    with pytest.raises(TapestryError, match=r"other\.yaml is not valid YAML"):
        load_parameters(path)


def test_a_missing_file_is_named_with_where_to_run_from(tmp_path: Path) -> None:
    with pytest.raises(TapestryError, match=r"nowhere\.yaml not found: run from the checkout's root"):
        load_parameters(tmp_path / "nowhere.yaml")


def test_plausible_timestamps_span_whole_years_in_utc(parameters: Parameters) -> None:
    first, last = parameters.ingest.time_range()
    assert (first, last) == (788_918_400_000, 1_893_456_000_000)


def test_layers_side_by_side_need_the_state_of_the_targets_domain(params_yaml: Path, tmp_path: Path) -> None:
    assert load_parameters(params_yaml).model.attention == "intra_and_full"
    changed = tmp_path / "params.yaml"
    changed.write_text(params_yaml.read_text().replace("target_state: true", "target_state: false"))
    with pytest.raises(TapestryError, match=r"intra_and_full: .* only by model\.target_state: set it to true"):
        load_parameters(changed)
