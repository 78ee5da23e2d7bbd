"""The error for input a user can mend."""


class InputError(ValueError):
    """Bad input from outside: a file, a checkpoint, an option.

    The message is one sentence or two: what came, what was expected, what to do. The command line prints it without
    a traceback and exits with status 2.
    """
