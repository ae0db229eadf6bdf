"""The Spark engine writes the same bytes as DuckDB, from the same SQL, and gives the same errors."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tapestry.core.errors import TapestryError
from tapestry.parameters import Parameters
from tapestry.provenance.hashes import content_hash
from tapestry.sessionize.sessionize import DomainInput, sessionize
from tapestry.sessionize.settings import SessionizeSettings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DOMAINS = ("Toys", "Books", "Games")


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    """A small local session. It is active, so sessionize uses it."""
    missing = [] if shutil.which("java") else ["Java"]
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        missing.append("PySpark")
    if missing:
        if os.environ.get("TAPESTRY_REQUIRE_SPARK"):
            pytest.fail(f"{missing} required here, but missing")
        pytest.skip(f"{' and '.join(missing)} not installed: see make spark")
    options: dict[str, bool | float | int | str | None] = {
        "spark.master": "local[2]",
        "spark.sql.shuffle.partitions": 2,
        "spark.ui.enabled": "false",
    }
    session = SparkSession.builder.config(map=options).getOrCreate()
    yield session
    session.stop()


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, DomainInput]:
    """Random interactions: many on one day, items with interactions in several domains, unusual characters in ids."""
    generator = random.Random(7)
    users = [*(f"u{number}" for number in range(60)), "é", "e\u0301", "O'Hara", 'a"b', "\U0001f600", "￿"]
    made: dict[str, DomainInput] = {}

    def skewed(names: list[str]) -> str:
        return names[int(len(names) * generator.random() ** 1.5)]

    for domain, name in enumerate(DOMAINS):
        items = ["shared0", "shared1", *(f"{domain}'{number}" for number in range(40))]
        steps = sorted({(skewed(users), generator.randrange(25), skewed(items)) for _ in range(900)})
        columns = {
            "user_id": [user for user, _, _ in steps],
            "item_id": [item for *_, item in steps],
            "timestamp": [86_400_000 * (15_000 + day) + domain for _, day, _ in steps],
            "row": range(1, len(steps) + 1),
            "position": [3 * (len(steps) * day + number) + domain for number, (_, day, _) in enumerate(steps)],
            "split": [(day > 17) + (day > 21) for _, day, _ in steps],
        }
        made[name] = DomainInput(tmp_path / f"{name}.parquet", tmp_path / f"{name}.json")
        pq.write_table(pa.table(columns), made[name].interactions)
        counts: dict[str, Any] = {"rows_in": len(steps), "rows_quarantined": 0, "rows_duplicate": 0, "reasons": {}}
        made[name].counts.write_text(json.dumps(counts))
    return made


@pytest.fixture
def settings(parameters: Parameters) -> SessionizeSettings:
    """Filters that need several rounds of the k-core and cut some of the longest histories."""
    return replace(
        parameters.sessionize,
        max_contested_share=1.0,
        min_user_interactions=20,
        min_item_interactions=10,
        min_domains=2,
        max_length=60,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"split": "leave_one_out", "ties": "hash"},
        {"split": "temporal", "ties": "row", "min_user_interactions": 15, "min_item_interactions": 5},
        {"item_identity": "domain"},
        {"contested_items": "drop", "k_core": "once", "truncate": "before", "min_user_domain_interactions": 8},
        {"split": "given", "order": "given", "min_user_domain_interactions": 8},
        {"split": "given"},
        {"split": "leave_one_out_by_domain"},
    ],
    ids=str,
)
@pytest.mark.usefixtures("spark")
def test_spark_and_duckdb_write_the_same_bytes(
    inputs: dict[str, DomainInput], settings: SessionizeSettings, tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings = replace(settings, **changes)
    expected = sessionize(inputs, settings, tmp_path / "duckdb")
    assert all(expected["all"][f"rows_{outcome}"] > 0 for outcome in ("kept", "filtered"))
    filtered = {
        reason: sum(rows["filtered"][reason] for rows in expected["domain"].values())
        for reason in ("item of another domain", "too few interactions or domains", "older than max_length")
    }
    assert (filtered.pop("item of another domain") == 0) == (settings.item_identity == "domain")
    assert all(filtered.values())
    assert sessionize(inputs, replace(settings, engine="spark"), tmp_path / "spark") == expected
    assert content_hash(tmp_path / "spark") == content_hash(tmp_path / "duckdb")
    # No temporary folder remains.
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        "spark",
        "duckdb",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"max_contested_share": 0.05},
        {"min_domains": 3, "min_user_interactions": 150},
        {"split": "temporal", "min_item_interactions": 500},
        {"split": "temporal", "validation_share": 1e-6},
        {"split": "temporal", "test_share": 1e-6, "min_user_interactions": 60},
    ],
    ids=str,
)
@pytest.mark.usefixtures("spark")
def test_both_engines_give_the_same_error_for_an_empty_domain_or_split(
    inputs: dict[str, DomainInput], settings: SessionizeSettings, tmp_path: Path, changes: dict[str, Any]
) -> None:
    messages = []
    for engine in ("duckdb", "spark"):
        with pytest.raises(TapestryError) as caught:
            sessionize(inputs, replace(settings, **changes, engine=engine), tmp_path / engine)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.usefixtures("spark")
def test_a_failure_of_spark_is_an_error_that_states_the_requirements(
    inputs: dict[str, DomainInput], settings: SessionizeSettings, tmp_path: Path
) -> None:
    inputs["Books"].interactions.unlink()
    with pytest.raises(TapestryError, match=r"(?s)Spark failed: .*Books\.parquet.*Every node must see"):
        sessionize(inputs, replace(settings, engine="spark"), tmp_path / "sequences")
    assert not (tmp_path / "sequences").exists()


def test_without_pyspark_the_error_says_what_to_install(
    inputs: dict[str, DomainInput], settings: SessionizeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(TapestryError, match=r"needs PySpark: .*pip install 'tapestry\[spark\]'"):
        sessionize(inputs, replace(settings, engine="spark"), tmp_path / "sequences")


def test_without_java_the_error_says_what_to_install(
    inputs: dict[str, DomainInput], settings: SessionizeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyspark", reason="PySpark not installed: see make spark")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.delenv("SPARK_REMOTE", raising=False)
    with pytest.raises(TapestryError, match=r"needs Java 17 or newer, but .*/bin/java is missing: install"):
        sessionize(inputs, replace(settings, engine="spark"), tmp_path / "sequences")
