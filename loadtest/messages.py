"""The messages between the Locust master and its workers, beside Locust's own.

A worker says hello. The master sends a share to each, which answers that it is ready; then it says go to all of them.
Each runs on its own clock from then on: times are counted from the window's start, and never compared between hosts,
whose clocks may differ. What the word needs to reach each of them (a network's delay) only shifts its share against the
others'. Raw samples come back in chunks, before the message that says done.
"""

from importlib import metadata

HELLO = "rfserve-hello"
SHARE = "rfserve-share"
READY = "rfserve-ready"
GO = "rfserve-go"
SAMPLES = "rfserve-samples"
DONE = "rfserve-done"
PROBLEM = "rfserve-problem"


def versions() -> dict[str, str]:
    """What a worker and its master must have in common: each worker makes the whole schedule, and takes its part."""
    return {name: metadata.version(name) for name in ("rfserve", "numpy")}
