"""An item's number of training interactions."""

from tapestry.baselines.baselines import Popularity as Baseline

__all__ = ["Baseline"]
