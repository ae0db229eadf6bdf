from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapestry.source.settings import SyntheticSettings
from tapestry.source.synthetic import (
    DAY,
    Cause,
    Simulation,
    domain_shares,
    simulate,
    structure,
    transition_matrix,
    write_domain,
)

DOMAINS = ("Books", "Games", "Toys")
D = len(DOMAINS)
SIGMAS = 5  # of a binomial: never seen by chance
CONFIG = SyntheticSettings(
    users=600,
    items=60,
    mean_length=20.0,
    domain_skew=0.5,
    transition_strength=0.6,
    popularity_exponent=0.8,
    interests=8,
    within_domain_effect=0.35,
    cross_domain_effect=0.25,
    tie_probability=0.25,
    seed=7,
)
SMALL = replace(CONFIG, users=40)


def assert_share(hits: int, trials: int, expected: float) -> None:
    assert trials > 100
    assert abs(hits / trials - expected) <= SIGMAS * np.sqrt(expected * (1 - expected) / trials) + 1e-12


def follows(simulation: Simulation) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether interaction i + 1 has the same user as interaction i, [N - 1]."""
    return np.asarray(simulation.user[1:] == simulation.user[:-1])


def transition_counts(simulation: Simulation) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    counts = np.zeros((D, D), dtype=np.int64)
    same = follows(simulation)
    np.add.at(counts, (simulation.domain[:-1][same], simulation.domain[1:][same]), 1)
    return counts


def replay(settings: SyntheticSettings, simulation: Simulation) -> dict[str, list[tuple[int, bool]]]:
    """Return, by effect, (cause, hit) of each interaction that it could have caused, in a loop over interactions."""
    world = structure(settings, D)
    seen: dict[str, list[tuple[int, bool]]] = {"within": [], "cross": []}
    for user in range(settings.users):
        mine = simulation.user == user
        history: list[tuple[int, int]] = []
        for domain, interest, cause in zip(
            simulation.domain[mine].tolist(),
            simulation.interest[mine].tolist(),
            simulation.cause[mine].tolist(),
            strict=True,
        ):
            here = [i for d, i in reversed(history) if d == domain][:1]
            elsewhere = [(d, i) for d, i in reversed(history) if d != domain][:1]
            seen["within"] += [(cause, interest == world.successor[domain, i]) for i in here]
            seen["cross"] += [(cause, interest == world.crossing[d, domain, i]) for d, i in elsewhere]
            assert cause != Cause.WITHIN or here
            assert cause != Cause.CROSS or elsewhere
            history.append((domain, interest))
    return seen


matrices = given(
    domains_count=st.integers(1, 15),
    skew=st.floats(0, 3) | st.just(40.0),
    strength=st.floats(0, 1, allow_subnormal=False),
)


@matrices
def test_transition_rows_are_distributions_and_shares_are_stationary(
    domains_count: int, skew: float, strength: float
) -> None:
    settings = replace(CONFIG, domain_skew=skew, transition_strength=strength)
    shares = domain_shares(settings, domains_count)
    matrix = transition_matrix(settings, domains_count)
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(shares @ matrix, shares, rtol=0, atol=1e-10)


@matrices
def test_every_domain_is_reached_from_every_other(domains_count: int, skew: float, strength: float) -> None:
    settings = replace(CONFIG, domain_skew=skew, transition_strength=strength)
    possible = (transition_matrix(settings, domains_count) > 0).astype(int)
    reached = np.linalg.matrix_power(np.eye(domains_count, dtype=int) + possible > 0, domains_count)
    assert reached.all()


@pytest.mark.parametrize("skew", [0.0, 0.5, 2.0])
def test_shares_follow_the_skew(skew: float) -> None:
    shares = domain_shares(replace(CONFIG, domain_skew=skew), 4)
    np.testing.assert_allclose(shares / shares[0], [1, 2**-skew, 3**-skew, 4**-skew])
    assert shares.sum() == pytest.approx(1)


def test_strength_0_draws_the_next_domain_from_the_shares() -> None:
    settings = replace(CONFIG, transition_strength=0.0)
    assert (transition_matrix(settings, D) == domain_shares(settings, D)).all()


def test_strength_1_with_equal_shares_makes_the_next_domain_certain() -> None:
    settings = replace(CONFIG, domain_skew=0.0, transition_strength=1.0)
    for domains_count in range(2, 12):
        matrix = transition_matrix(settings, domains_count)
        assert (matrix == np.roll(np.eye(domains_count), 1, axis=1)).all()
    assert (np.count_nonzero(transition_counts(simulate(settings, D)), axis=1) == 1).all()


def test_skewed_domains_get_more_predictable_with_strength() -> None:
    def entropy(strength: float) -> float:
        settings = replace(CONFIG, domain_skew=1.0, transition_strength=strength)
        matrix = transition_matrix(settings, 5)
        logs = np.log(matrix, out=np.zeros_like(matrix), where=matrix > 0)
        return float(-(domain_shares(settings, 5)[:, None] * matrix * logs).sum())

    entropies = [entropy(strength) for strength in np.linspace(0, 1, 6)]
    assert entropies == sorted(entropies, reverse=True)
    assert entropies[-1] < entropies[0] / 2


@pytest.mark.parametrize(("skew", "strength"), [(0.0, 0.0), (0.0, 0.6), (1.0, 0.3), (1.0, 1.0)])
def test_simulated_domains_follow_the_transition_matrix(skew: float, strength: float) -> None:
    settings = replace(CONFIG, domain_skew=skew, transition_strength=strength)
    simulation = simulate(settings, D)
    counts, matrix = transition_counts(simulation), transition_matrix(settings, D)
    for last in range(D):
        for following in range(D):
            assert_share(int(counts[last, following]), int(counts[last].sum()), float(matrix[last, following]))
    first = np.r_[True, ~follows(simulation)]
    for domain, share in enumerate(domain_shares(settings, D)):
        assert_share(int((simulation.domain[first] == domain).sum()), settings.users, float(share))


def test_every_caused_interest_is_determined_by_the_history() -> None:
    seen = replay(CONFIG, simulate(CONFIG, D))
    assert all(hit for cause, hit in seen["within"] if cause == Cause.WITHIN)
    assert all(hit for cause, hit in seen["cross"] if cause == Cause.CROSS)
    assert_share(sum(c == Cause.WITHIN for c, _ in seen["within"]), len(seen["within"]), 0.35)
    assert_share(sum(c == Cause.CROSS for c, _ in seen["cross"]), len(seen["cross"]), 0.25)


@pytest.mark.parametrize(("effect", "within", "cross"), [("within", 0.4, 0.0), ("cross", 0.0, 0.4)])
def test_an_effect_is_found_if_it_is_set_and_absent_at_0(effect: str, within: float, cross: float) -> None:
    none = replace(CONFIG, users=300, within_domain_effect=0.0, cross_domain_effect=0.0)
    strong = replace(none, within_domain_effect=within, cross_domain_effect=cross)
    rates = {}
    for name, settings in {"none": none, "strong": strong}.items():
        seen = replay(settings, simulate(settings, D))[effect]
        rates[name] = sum(hit for _, hit in seen) / len(seen)
    # Chance lies near one interest in eight; the effect adds its share of what chance leaves.
    assert rates["none"] < 0.2
    assert rates["strong"] == pytest.approx(0.4 + 0.6 * rates["none"], abs=0.05)


def test_without_effects_every_interest_is_the_users_preference() -> None:
    settings = replace(SMALL, within_domain_effect=0.0, cross_domain_effect=0.0)
    assert (simulate(settings, D).cause == Cause.BASE).all()


def test_the_cross_effect_does_not_change_users_domains_and_days() -> None:
    one, other = simulate(SMALL, D), simulate(replace(SMALL, cross_domain_effect=0.0), D)
    for name in ("user", "domain", "timestamp", "rating"):
        assert (getattr(one, name) == getattr(other, name)).all()
    assert (one.interest != other.interest).any()


def test_items_have_the_interest_and_follow_its_popularity() -> None:
    settings = replace(CONFIG, items=61, popularity_exponent=1.5)
    simulation, world = simulate(settings, D), structure(settings, D)
    slots = np.argsort(world.ranked_items, axis=1)[simulation.domain, simulation.item]
    assert (slots % settings.interests == simulation.interest).all()
    ranks = slots // settings.interests
    assert ranks.max() == 7
    # Interests 0 to 4 have eight items, the others seven: Zipf over as many as there are.
    for interest, choices in ((0, 8), (7, 7)):
        weights = np.arange(1, choices + 1) ** -1.5
        counts = np.bincount(ranks[simulation.interest == interest], minlength=choices)
        for rank, share in enumerate(weights / weights.sum()):
            assert_share(int(counts[rank]), int(counts.sum()), float(share))


def test_lengths_are_5_plus_a_geometric_number() -> None:
    settings = replace(CONFIG, users=4000)
    lengths = np.bincount(simulate(settings, D).user, minlength=settings.users)
    assert lengths.min() == 5
    assert lengths.mean() == pytest.approx(20, abs=SIGMAS * np.sqrt(15 * 16 / settings.users))
    assert (np.bincount(simulate(replace(SMALL, mean_length=5.0), D).user) == 5).all()


def test_the_share_of_ties_is_the_tie_probability() -> None:
    simulation = simulate(CONFIG, D)
    gaps = np.diff(simulation.timestamp)[follows(simulation)]
    assert_share(int((gaps == 0).sum()), len(gaps), CONFIG.tie_probability)


@pytest.mark.parametrize("mean_length", [20.0, 400.0])
def test_time_is_ascending_and_ends_before_2019(mean_length: float) -> None:
    settings = replace(SMALL, mean_length=mean_length)
    simulation = simulate(settings, D)
    gaps = np.diff(simulation.timestamp)[follows(simulation)]
    assert gaps.min() == 0
    assert (simulation.timestamp % DAY == 0).all()
    assert simulation.timestamp.min() >= datetime(2012 if mean_length < 100 else 1995, 1, 1, tzinfo=UTC).timestamp()
    assert simulation.timestamp.max() < datetime(2019, 1, 1, tzinfo=UTC).timestamp()
    assert_share(int((gaps == 0).sum()), len(gaps), settings.tie_probability)


def test_ratings_are_1_to_5_and_mostly_5() -> None:
    counts = np.bincount(simulate(CONFIG, D).rating)
    assert len(counts) == 6
    assert counts[0] == 0
    assert counts.argmax() == 5


def test_equal_arguments_give_equal_bytes_and_another_seed_others(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("one.json.gz", "two.json.gz", "three.json.gz")]
    for path, seed in zip(paths, (7, 7, 8), strict=True):
        write_domain(replace(SMALL, seed=seed), DOMAINS, "Games", path)
    one, two, three = (path.read_bytes() for path in paths)
    assert one == two
    assert one[3:8] == bytes(5), "the gzip header holds a name or a time"
    assert gzip.decompress(one) != gzip.decompress(three)
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_files_are_in_the_2018_layout_and_together_are_the_simulation(tmp_path: Path) -> None:
    kinds = {
        "overall": float,
        "verified": bool,
        "reviewTime": str,
        "reviewerID": str,
        "asin": str,
        "reviewerName": str,
        "reviewText": str,
        "summary": str,
        "unixReviewTime": int,
    }
    written: Counter[tuple[int, ...]] = Counter()
    for number, domain in enumerate(DOMAINS):
        path = tmp_path / f"{domain}.json.gz"
        write_domain(SMALL, DOMAINS, domain, path)
        reviews = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
        for review in reviews:
            assert {key: type(value) for key, value in review.items()} == kinds
            assert list(review) == list(kinds)
            assert re.fullmatch(r"A\d{13}", review["reviewerID"])
            assert re.fullmatch(rf"S{number:02}\d{{7}}", review["asin"])
            assert re.fullmatch(r"\d\d [1-9]\d?, \d{4}", review["reviewTime"])
            day = datetime.strptime(review["reviewTime"] + " +0000", "%m %d, %Y %z")
            assert day.timestamp() == review["unixReviewTime"]
        keys = [(r["asin"], r["unixReviewTime"], r["reviewerID"]) for r in reviews]
        assert keys == sorted(keys)
        written.update(
            (int(r["reviewerID"][1:]), number, int(r["asin"][3:]), r["unixReviewTime"], int(r["overall"]))
            for r in reviews
        )
    s = simulate(SMALL, D)
    columns = (s.user, s.domain, s.item, s.timestamp, s.rating)
    assert written == Counter(zip(*(column.tolist() for column in columns), strict=True))


def test_an_unknown_domain_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not in"):
        write_domain(SMALL, DOMAINS, "Beauty", tmp_path / "Beauty.json.gz")
    assert list(tmp_path.iterdir()) == []
