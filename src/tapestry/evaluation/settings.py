"""Section `evaluate` of params.yaml: how targets are ranked, and the cut-offs of the metrics."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from tapestry.core.bounds import Threads, at_most, between, require
from tapestry.core.errors import shown

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class EvaluateSettings:
    """How the model and the baselines rank targets among the items of a domain (`tapestry.evaluation.ranking`)."""

    exclude_seen: bool
    """Whether a ranking excludes the items of the user's history. The target itself is never excluded."""
    ks: tuple[Annotated[int, at_most(10**9)], ...]
    """Cut-offs K of HR@K and NDCG@K, ascending."""
    batch_users: Annotated[int, between(1, 10**6)]
    """Users in a batch."""
    neighbours: Annotated[int, between(1, 10**5)]
    """Number of neighbours (most similar items) of each item in the item-kNN baseline."""
    device: Literal["auto", "cpu", "cuda"]
    """`auto`: CUDA if a CUDA device is present, else the CPU."""
    threads: Threads
    """CPU threads of each process."""
    processes: Annotated[int, between(1, 1024)] = 1
    """Processes that share the targets."""
    sampled_negatives: Annotated[int | None, between(1, 10**9)] = None
    """Adds the expected figures of a ranking among this number of sampled negatives, such as `hr_10_of_999`
    (`tapestry.evaluation.sampled`); null: none."""
    item_table: Literal["whole", "sharded"] = "whole"
    """What each process holds of the item embedding: `whole`, with exactly the ranks of one process, or its share of a
    table that is too large for one device. Ranks of items with almost equal scores may then differ."""
    baselines: tuple[str, ...] = ("popularity", "recent_popularity", "item_knn")
    """The baselines that run: `<name>` is the script `baselines/<name>.py`."""

    def __post_init__(self) -> None:
        require(
            self.item_table == "whole" or self.processes > 1, "evaluate.item_table: sharded needs evaluate.processes: 2"
        )
        require(len(self.ks) <= 1000, f"evaluate.ks: {len(self.ks)} cut-offs; at most 1000")
        require(len(self.ks) > 0, "evaluate.ks: at least one cut-off is needed")
        require(all(k >= 1 for k in self.ks), "evaluate.ks: cut-offs are at least 1")
        require(list(self.ks) == sorted(set(self.ks)), "evaluate.ks: must be ascending, each cut-off once")
        for name in self.baselines:
            require(
                _NAME.fullmatch(name) is not None,
                f"evaluate.baselines: {shown(name)} is not the name of a script: a letter, then letters, digits and _; "
                "baselines/my_model.py is my_model",
            )
            require(name.casefold() != "tapestry", f"evaluate.baselines: {name} is the name of the model in tables")
        require(
            len({name.casefold() for name in self.baselines}) == len(self.baselines),
            "evaluate.baselines: a baseline is named twice",
        )
