"""The one error a user is meant to read: what is wrong, where, and how to mend it."""


class TapestryError(Exception):
    """Bad input or an impossible request. Stages print it without a traceback and exit with 1."""


def shown(value: object) -> str:
    """A value as it may stand in a message: on one line, short, without control characters; text in quotes."""
    return _shortened(repr(value))


def one_line(text: str) -> str:
    """Text as it may stand in a message without quotes."""
    return _shortened(text if text.isprintable() else repr(text)[1:-1])


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


_LONGEST = 100
