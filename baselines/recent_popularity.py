"""An item's number of training interactions in the 90 days before the request."""

from tapestry.baselines.baselines import RecentPopularity as Baseline

__all__ = ["Baseline"]
