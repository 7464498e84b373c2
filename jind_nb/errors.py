"""The one exception that means: the user's input is wrong, and here is what to do."""


class InputError(ValueError):
    """What was wrong, where, and what to do, in one message for the user.

    The command line prints it without a traceback and exits with status 2.
    """
