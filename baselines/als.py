"""Matrix factorisation by alternating least squares, of the library implicit."""

from tapestry.baselines.als import Als as Baseline

__all__ = ["Baseline"]
