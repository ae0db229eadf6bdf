"""HSTU of the library RecTools."""

from tapestry.baselines.rectools_models import RecTools


class Baseline(RecTools):
    def __init__(self) -> None:
        super().__init__("hstu")
