"""The names of validation figures: `train.stop_by` accepts them, and `tapestry.evaluation.validation` computes them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tapestry.core.bounds import require
from tapestry.core.errors import shown


@dataclass(frozen=True)
class ValidationFigure:
    """A figure of the validation targets, by its name.

    metric: `hr_K`, `ndcg_K` or `mrr`, a key of `tapestry.evaluation.metrics.ranking_metrics`. k: K, None for `mrr`.
    by_domain: whether it is the mean over domains of the metric of each domain's targets. negatives: the number of
    sampled negatives among which a target is ranked (`tapestry.evaluation.sampled`); None for the whole domain.
    """

    metric: str
    k: int | None
    by_domain: bool
    negatives: int | None

    @classmethod
    def of_name(cls, name: str, key: str) -> ValidationFigure:
        """Return the figure of a name, such as `ndcg_10` or `domain_mrr_of_999`.

        Args:
            key: the parameter that holds the name, for the message.

        Raises:
            TapestryError: there is no such figure; the message says which there are.
        """
        match = _NAME.fullmatch(name)
        require(
            match is not None and max(int(match["k"] or 1), int(match["negatives"] or 1)) <= _LARGEST,
            f"{key}: {shown(name)} is no validation figure; accepted are hr_K, ndcg_K (K from 1 to {_LARGEST}) and "
            "mrr, each also with the prefix domain_ (the mean over domains) and with the suffix _of_N (among N sampled "
            "negatives)",
        )
        assert match is not None
        k, negatives = (int(match[part]) if match[part] else None for part in ("k", "negatives"))
        return cls(match["metric"], k, match["domain"] is not None, negatives)


_LARGEST = 10**9
_NAME = re.compile(
    r"(?P<domain>domain_)?(?P<metric>mrr|(?:hr|ndcg)_(?P<k>[1-9][0-9]{0,9}))(?:_of_(?P<negatives>[1-9][0-9]{0,9}))?"
)
