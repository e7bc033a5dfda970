"""Errors. What they say is what the program says."""


class Error(ValueError):
    """A request that cannot be carried out, in one sentence."""


class MissingFile(Error, FileNotFoundError):
    """A file that is not there."""
