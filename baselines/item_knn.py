"""Items that share users with those of the history."""

from tapestry.baselines.baselines import ItemKnn as Baseline

__all__ = ["Baseline"]
