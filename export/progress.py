"""How long steps say what they are at."""

from collections.abc import Callable

# Called with one line of text.
Report = Callable[[str], None]
