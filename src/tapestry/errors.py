"""The one error a user is meant to read: what is wrong, where, and how to mend it."""


class TapestryError(Exception):
    """Bad input or an impossible request. Stages print it without a traceback and exit with 1."""
