"""`make bench-serving`: what a server holds under load, as ratios of things measured in one run.

Each module has a `main` that prints its figures; add one to `PARTS`, and it is printed too.
"""

import argparse
import functools
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import alerts
import backend
import expired_deadlines
import hot_swap
import mixed_batches
import overload
import scheduling
import soak
from figures import head


def alone(script: str) -> None:
    """A part that measures its own process: without what the others have loaded."""
    subprocess.run([sys.executable, str(Path(__file__).with_name(script))], check=False)


PARTS: Mapping[str, Callable[[], None]] = {
    "backend": backend.main,
    "overload": overload.main,
    "expired_deadlines": expired_deadlines.main,
    "scheduling": scheduling.main,
    "mixed_batches": mixed_batches.main,
    "hot_swap": hot_swap.main,
    "alerts": alerts.report,
    "client_ways": functools.partial(alone, "client_ways.py"),
    "client_leaks": functools.partial(alone, "client_leaks.py"),
}


def main() -> None:
    """Every part, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"default: {', '.join([*PARTS, 'soak'])}")
    parser.add_argument("--soak-minutes", type=float, default=30.0, help="default: %(default)s")
    options = parser.parse_args()
    parts = {**PARTS, "soak": functools.partial(soak.main, ["--minutes", str(options.soak_minutes)])}
    unknown = set(options.parts) - set(parts)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; expected {', '.join(parts)}")
    head()
    for name in options.parts or parts:
        parts[name]()


if __name__ == "__main__":
    main()
