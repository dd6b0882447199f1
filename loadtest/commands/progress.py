"""What commands say while they work."""

import sys


def tell(text: str) -> None:
    """A line for who watches; standard output is for the answer."""
    print(text, file=sys.stderr, flush=True)
