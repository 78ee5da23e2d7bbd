"""The errors that a user can mend; the command line prints them as a sentence and exits with status 2."""


class InputError(ValueError):
    """Bad input from outside: a file, a checkpoint, an option.

    The message is one sentence or two: what came, what was expected, what to do. The command line prints it without
    a traceback and exits with status 2.
    """


class BackendError(RuntimeError):
    """A backend that was asked for by name cannot run a call; the message says why."""
