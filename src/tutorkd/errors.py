"""What ends a command early."""


class UserError(Exception):
    """A mistake of the user's, told in one line: what is wrong, where, and what to do.

    The command line prints the message alone and exits with code 2.
    """


class Interrupted(Exception):
    """A run was stopped by a signal after saving a checkpoint; the command exits with 128 + ``signal_number``."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number
