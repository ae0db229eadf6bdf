"""An item's number of interactions, of all users and splits, in the 30 days before the request."""

from tapestry.baselines.baselines import RecentCounted as Baseline

__all__ = ["Baseline"]
