"""Groups of targets, of each of which a study has figures of its own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_HISTORY = (0, 5, 10, 20, np.inf)  # bounds of the groups by number of interactions before the target
_DECILES = 10


def target_groups(ranks: pa.Table) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Yield groups of the targets of a table of ranks: the name, and which targets are inside (N,).

    These are: each domain; same and other domain than the interaction before; untied and tied; by the length of the
    history; by the popularity of the target's item (decile 1 has the targets of the rarest items); items without a
    training interaction, if there are any.
    """
    column = {name: ranks[name].to_numpy(zero_copy_only=False) for name in ranks.column_names}
    for domain in sorted(set(column["domain"])):
        yield f"domain {domain}", column["domain"] == domain
    for name, words in (("switch", ("same domain", "other domain")), ("tied", ("untied", "tied"))):
        for value, word in enumerate(words):
            yield word, column[name] == bool(value)
    for low, high in pairwise(_HISTORY):
        yield f"history {low + 1} to {high}", (column["history"] > low) & (column["history"] <= high)
    order = np.argsort(column["popularity"], kind="stable")
    for number, part in enumerate(np.array_split(order, _DECILES), start=1):
        inside = np.zeros(len(order), dtype=bool)
        inside[part] = True
        yield f"popularity decile {number}", inside
    if (column["popularity"] == 0).any():
        yield "item without training", column["popularity"] == 0
