"""How long steps say what they are at."""

import sys
import time
from collections.abc import Callable

# Called with one line of text.
Report = Callable[[str], None]


def to_stderr(name: str) -> Report:
    """A report that prints each step there, behind the name and the seconds from now."""
    begun = time.monotonic()

    def report(step: str) -> None:
        print(f"{name}: {time.monotonic() - begun:6.1f} s  {step}", file=sys.stderr, flush=True)

    return report
