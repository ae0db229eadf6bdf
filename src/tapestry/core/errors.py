"""The one error a user is meant to read: what is wrong, where, and how to mend it."""

_LONGEST = 100  # characters


class TapestryError(Exception):
    """Bad input or an impossible request. Stages print it without a traceback and exit with 1."""


def shown(value: object) -> str:
    """A value as it may stand in a message: on one line, short, without control characters; text in quotes."""
    return _shortened(repr(value))


def one_line(text: str, longest: int = _LONGEST) -> str:
    """Text as it may stand in a message without quotes: what a terminal would obey is written out."""
    return _shortened(text if text.isprintable() else repr(text)[1:-1], longest)


def for_terminal(text: str) -> str:
    """A whole message without characters that a terminal would obey, whatever file they came from; lines stay."""
    return "\n".join(line if line.isprintable() else repr(line)[1:-1] for line in text.split("\n"))


def _shortened(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else f"{text[:longest]}…"
