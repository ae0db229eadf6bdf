"""The command line of a study's script: `SCRIPT COMMAND [ARGUMENT …]`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tapestry.core.ending import end_if_sending
from tapestry.core.errors import TapestryError, one_line
from tapestry.core.failures import reported_errors


def run_command(arguments: Sequence[str], commands: Mapping[str, Callable[..., None]], name: str = "study") -> None:
    """Run the command that the arguments name; print a TapestryError as one line, and exit.

    Args:
        name: how messages begin if there are no arguments.

    Raises:
        SystemExit: the command failed, or none is named.
    """
    with reported_errors(one_line(" ".join(arguments)) or name):
        if not arguments or arguments[0] not in commands:
            raise TapestryError(f"a command is needed, one of {', '.join(commands)}")
        commands[arguments[0]](*arguments[1:])
    end_if_sending(0)
