"""The one exception that means: the user's input is wrong, and here is what to do."""

import re

# What moves a terminal's cursor, colours it or cannot be written to it; names in the data may hold anything.
UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

LONGEST_MESSAGE = 5_000


class InputError(ValueError):
    """What was wrong, where, and what to do, in one message for the user.

    The command line prints it without a traceback and exits with status 2; a notebook shows it alone.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [f"\x1b[0;31mPlease check\x1b[0m: {shown(str(self))}"]


def shown(text: str) -> str:
    """Text for a screen: no control characters, and no more than a few pages."""
    cut = text if len(text) <= LONGEST_MESSAGE else f"{text[: LONGEST_MESSAGE - 500]} … {text[-500:]}"
    return UNSHOWN.sub("\ufffd", cut)
