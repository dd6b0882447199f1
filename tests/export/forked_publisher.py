"""Publishers that are killed: `python forked_publisher.py` takes one order a line and answers with `killed` or `done`.

An order is JSON: `location`, the `folder` whose files are the version, the `step` before which the publisher dies, and
variables of its `environment`.
It runs on its own, because it forks: rfserve is imported once, without torch, and every child starts with it.
"""

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rfserve.export.manifest import Manifest
from rfserve.export.object_repository import ObjectRepository
from rfserve.export.repository import version_files
from rfserve.export.spec import find

SPEC = find("mel_features")


def publish(location: str, folder: str, step: int) -> None:
    """Publish, and die before the request number `step` that changes something is sent."""
    left = [step]

    def count(request: Any, **_: object) -> None:
        left[0] -= request.method != "GET"
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def fill(target: Path) -> Callable[[int], Manifest]:
        shutil.copytree(folder, target, dirs_exist_ok=True)
        files = version_files(target)
        return lambda number: Manifest(model=SPEC.name, version=number, weights="none", files=files, git_revision=None)

    repository = ObjectRepository(location)
    repository._store._client.meta.events.register("before-send.s3", count)
    repository.publish(SPEC, fill)


def forked(order: dict[str, Any]) -> str:
    """Publish in a child."""
    child = os.fork()
    if child == 0:
        try:
            os.environ.update(order.pop("environment"))
            publish(**order)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return "killed"
    return "done" if status == 0 else "failed"


if __name__ == "__main__":
    for line in sys.stdin:
        print(forked(json.loads(line)), flush=True)
