"""The errors that a user can mend, and what of another library's error goes into their messages."""


class InputError(ValueError):
    """Bad input from outside: a file, a checkpoint, an option.

    The message is one sentence or two: what came, what was expected, what to do. The command line prints it without
    a traceback and exits with status 2.
    """


class BackendError(RuntimeError):
    """A backend that was asked for by name cannot run a call; the message says why."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class where it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def on_one_line(error: BaseException) -> str:
    """The whole message of an error on one line, for libraries whose first line does not name the cause."""
    return " ".join(str(error).split()) or type(error).__name__
