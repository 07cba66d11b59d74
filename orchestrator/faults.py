"""Points at which tests let the orchestrator die, one at each step that must survive it."""

import os
import signal

VARIABLE = "SAEFORGE_FAULT"
"""Environment variable: the name of a point, and after a colon the passage that dies (the first when left out)."""

_point = ""
_left = 0


def arm(request: str) -> None:
    """Die at the point that ``request`` names, in the words of ``VARIABLE``; nowhere when it is empty."""
    global _point, _left
    _point, _, passage = request.partition(":")
    _left = int(passage or 1)


def reach(point: str) -> None:
    """Die here like ``kill -9`` if a test asked for it; nothing otherwise."""
    global _left
    if point == _point:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get(VARIABLE, ""))
