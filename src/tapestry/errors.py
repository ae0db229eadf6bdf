"""The one error a user is meant to read: what is wrong, where, and how to mend it."""


class TapestryError(Exception):
    """Bad input or an impossible request. Stages print it without a traceback and exit with 1."""


def printable(text: str) -> str:
    """Text from a file, for a message: what a terminal would obey (escape sequences, line ends) is written out."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
