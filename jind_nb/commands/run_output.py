"""What the output of a run's process says to the program that started it: the stage it is at, and why it failed."""

import re


def current_stage(output: str) -> tuple[int, int, str] | None:
    """Return the last stage that has begun, the number of stages, and what it does; None before the first.

    >>> current_stage("12:00:01 1/5 1_preprocess: reading\\n12:00:09 2/5 2_train: learning\\n")
    (2, 5, '2_train: learning')
    """
    stages = re.findall(r"^\d\d:\d\d:\d\d (\d+)/(\d+) (\S+: .*)$", output, re.M)
    return (int(stages[-1][0]), int(stages[-1][1]), stages[-1][2]) if stages else None


def failure_message(output: str) -> str:
    """Return the last message of a run that failed, an empty text if there is none.

    >>> failure_message("12:00:01 1/5 1_preprocess: reading\\nFailed: no room")
    'no room'
    """
    *_, message = re.split(r"^(?:Wrong input|Failed): ", f"\n{output}", flags=re.M)
    return message.strip() if message != f"\n{output}" else ""
