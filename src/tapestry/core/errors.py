"""The error that a user sees: what is wrong, where, and how to fix it; and text made safe for its message."""

_LONGEST = 100  # characters


class TapestryError(Exception):
    """Bad input or an impossible request. Stages and commands print it without a traceback and exit with 1."""


def shown(value: object) -> str:
    """Format a value for a message: one short line without control characters; text is in quotes."""
    return _shortened(repr(value))


def one_line(text: str, longest: int = _LONGEST) -> str:
    """Format text for a message, without quotes: one short line, control characters escaped."""
    return _shortened(text if text.isprintable() else repr(text)[1:-1], longest)


def for_terminal(text: str) -> str:
    """Escape the control characters of a whole message, which may come from a file; line breaks stay."""
    return "\n".join(line if line.isprintable() else repr(line)[1:-1] for line in text.split("\n"))


def _shortened(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else f"{text[:longest]}…"
