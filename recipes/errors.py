"""The error that tells users about their own mistakes."""


class UserError(ValueError):
    """A mistake of the user: printed as one line, exit code 2."""
