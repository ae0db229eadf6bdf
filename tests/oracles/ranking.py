"""A target's rank by plain loops."""

from __future__ import annotations

from tapestry.sequences.reader import Sequences


def naive_rank(sequences: Sequences, target: int, scores: list[float], exclude_seen: bool) -> tuple[int, int]:
    """Return rank and candidates of `target`. `scores`: of the items of its domain, in order."""
    domain = sequences.domains[sequences.domain[target]]
    item = int(sequences.item[target])
    seen = set(sequences.item[sequences.offsets[sequences.user[target]] : target].tolist()) if exclude_seen else set()
    rivals = [i for i in range(domain.start, domain.end) if i != item and i not in seen]
    above = sum(not scores[i - domain.start] < scores[item - domain.start] for i in rivals)
    return above + 1, len(rivals) + 1
