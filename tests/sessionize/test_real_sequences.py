"""The six real domains, against figures known from the raw files."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from interactions import read_result

from tapestry.parameters import Parameters
from tapestry.sessionize.sessionize import DomainInput, sessionize


@pytest.mark.real_data
def test_the_six_real_domains_have_the_figures_known_of_them(
    parameters: Parameters, six_domains: dict[str, DomainInput], tmp_path: Path
) -> None:
    metrics = sessionize(six_domains, parameters.sessionize, tmp_path / "sequences")
    result = read_result(tmp_path / "sequences", metrics)
    whole = metrics["all"]
    assert (whole["users"], whole["items"], whole["interactions"]) == (8278, 15_378, 212_897)
    assert whole["delta"] == pytest.approx(0.466, abs=5e-4)
    assert whole["tied_pairs"] == pytest.approx(0.31, abs=5e-3)
    assert whole["rows_in"] == 726_125 == whole["rows_kept"] + whole["rows_filtered"]
    assert {domain: of_domain["interactions"] for domain, of_domain in metrics["domain"].items()} == {
        "Beauty": 41_612,
        "Electronics": 32_951,
        "Grocery_and_Gourmet_Food": 49_643,
        "Home_and_Kitchen": 49_643,
        "Sports_and_Outdoors": 13_324,
        "Toys_and_Games": 25_724,
    }
    lengths = [length for *_, length in result.users]
    assert (statistics.median(lengths), max(lengths)) == (13, 278)
    active: dict[int, set[int]] = defaultdict(set)
    for user, _, _, domain, _, _ in result.sequences:
        active[user].add(domain)
    assert Counter(map(len, active.values())) == {2: 4567, 3: 1691, 4: 888, 5: 680, 6: 452}
