"""Times, shares, and words that come from anywhere, as plain text."""

from datetime import UTC, datetime
from decimal import Decimal


def utc_text(at_ns: int, digits: int = 3) -> str:
    """A time in ns since 1970 as RFC 3339 in UTC; what `digits` leaves out is cut, not rounded."""
    whole = datetime.fromtimestamp(at_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{at_ns % 1_000_000_000:09d}"[: len(whole) + 1 + digits] + "Z"


def percent(share: float) -> str:
    """A share as a percentage with all of its digits: 0.997 is not 100%."""
    return f"{(100 * Decimal(str(share))).normalize():f}%"


def one_line(text: str) -> str:
    """The text on one line, without what a terminal or a spreadsheet would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
