"""The errors that a user can do something about, and functions that put other libraries' errors into messages."""


class InputError(ValueError):
    """Bad input from outside, such as a file, a checkpoint or an option.

    The message is a sentence or two that says what came, what was expected, and what to do. The command line prints it
    without a traceback and exits with status 2.
    """


class BackendError(RuntimeError):
    """A backend or a device cannot run a call; the message says why."""


def reason(error: BaseException) -> str:
    """The whole message of an error on one line, or the name of its class if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__
