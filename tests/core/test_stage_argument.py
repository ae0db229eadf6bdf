"""The argument of a stage is one of a parameter's list."""

from __future__ import annotations

import pytest

from tapestry.core.errors import TapestryError
from tapestry.core.stage_argument import stage_argument


def test_the_argument_is_one_of_the_list() -> None:
    assert stage_argument(["als"], ["als", "mine"], "evaluate.baselines") == "als"


@pytest.mark.parametrize(
    ("arguments", "names", "message"),
    [
        (["alz"], ["als", "mine"], r"'alz' is not one of evaluate\.baselines: als, mine"),
        ([], [], "one argument is needed, found none; accepted is one of evaluate.baselines: none"),
        (["als", "mine"], ["als", "mine"], "one argument is needed, found als mine; accepted is one of evaluate"),
    ],
)
def test_any_other_argument_is_an_error(arguments: list[str], names: list[str], message: str) -> None:
    with pytest.raises(TapestryError, match=message):
        stage_argument(arguments, names, "evaluate.baselines")
