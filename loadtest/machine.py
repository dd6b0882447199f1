"""The machine that this process runs on, and the versions of what was measured."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rfserve.loadtest.measurement import Machine

# Distributions that own the name a version is wanted of; the first that is installed.
DISTRIBUTIONS = {
    "rfserve": ("rfserve",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "tritonclient": ("tritonclient",),
    "locust": ("locust",),
}


def this_machine(**versions: str) -> Machine:
    """What `/proc` and the installed distributions say; `versions` adds what only the caller knows."""
    found = {name: v for name, names in DISTRIBUTIONS.items() if (v := _installed(names)) is not None}
    if (revision := _revision()) is not None:
        found["revision"] = revision
    return Machine(
        cpu_model=_cpu_model(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        kernel=platform.release(),
        python=platform.python_version(),
        versions=found | versions,
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _installed(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _revision() -> str | None:
    """The commit of the checkout that this code stands in, with `-dirty` when it has changes."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
