"""The errors that end a program with one line."""


class UserError(ValueError):
    """A mistake of the user: printed as one line, exit code 2."""

    exit_code = 2


class RendezvousError(UserError):
    """The processes of a run did not find each other: exit code 5.

    As a rule no setting is wrong, but a node or the network does not answer: another start may succeed.
    """

    exit_code = 5
