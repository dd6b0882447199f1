"""Calls a name until it is told to end: `balanced_client.py HOST:PORT`, for a test that gives the name its addresses.

For each line on stdin it makes so many calls, or calls until the next line when that is `go`; it says what came of it,
and what it sent again. What a batcher slept over is sent again too, whichever server it is, and left out.
"""

import json
import sys
import threading
from collections.abc import Iterator
from typing import Any

from rfserve.clients.client import LocalizationClient
from rfserve.clients.errors import ClientError, Overloaded, RequestError
from rfserve.clients.retries import Attempts
from rfserve.clients.servers import Channel
from rfserve.export.spec import example, find

MODEL = "mel_features"


def _wait_for_a_line(lines: Iterator[str], stopped: threading.Event) -> None:
    next(lines)
    stopped.set()


def main() -> None:
    arrays = example(find(MODEL))
    retried: list[str] = []
    failed = Attempts.failed

    def noted(self: Attempts[Any], channel: Channel[Any], error: RequestError) -> float:
        if not isinstance(error, Overloaded):
            retried.append(str(error))
        return failed(self, channel, error)

    Attempts.failed = noted
    lines = iter(sys.stdin.readline, "")
    with LocalizationClient(sys.argv[1], timeout_s=20.0) as client:
        client.infer(MODEL, arrays)
        print("ready", flush=True)
        for line in lines:
            stopped = threading.Event()
            errors: list[str] = []
            calls = 0
            if line == "go\n":
                threading.Thread(target=_wait_for_a_line, args=(lines, stopped), daemon=True).start()
            while not stopped.is_set() if line == "go\n" else calls < int(line):
                calls += 1
                try:
                    client.infer(MODEL, arrays)
                except ClientError as error:
                    errors.append(str(error))
            print(json.dumps({"calls": calls, "errors": errors, "retried": retried}), flush=True)


if __name__ == "__main__":
    main()
