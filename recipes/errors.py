"""The error that reports a user's mistake."""


class UserError(ValueError):
    """A mistake of the user: printed as one line, exit code 2."""
