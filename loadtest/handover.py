"""What users left behind in Locust's workers comes to its master, which decides."""

import time
from typing import Any

import gevent
from locust.env import Environment
from locust.runners import STATE_MISSING, MasterRunner, WorkerRunner

from rfserve.loadtest.generator import GRACE_S
from rfserve.loadtest.taken import Taken
from rfserve.loadtest.user import TAKEN

END = "rfserve-end"
TAKEN_BY_USERS = "rfserve-taken"
LOOK_S = 0.05
# For a worker's answer, beside what its last requests may take.
DELIVERY_S = 5.0

HEARD: set[str] = set()


def register(environment: Environment) -> None:
    """Have the two sides hear each other."""
    runner = environment.runner
    if isinstance(runner, MasterRunner):
        runner.register_message(TAKEN_BY_USERS, _hear)
    elif isinstance(runner, WorkerRunner):
        runner.register_message(END, lambda **_: runner.stop())


def begin() -> None:
    """A run started again on the web page is a run of its own."""
    TAKEN.clear()
    HEARD.clear()


def end(environment: Environment) -> None:
    """A worker's users have stopped and hand over; a master, which Locust would have quit at once, waits for them."""
    runner = environment.runner
    if isinstance(runner, WorkerRunner):
        runner.send_message(TAKEN_BY_USERS, {model: taken.to_dict() for model, taken in TAKEN.items()})
    elif isinstance(runner, MasterRunner):
        runner.send_message(END)
        deadline = time.monotonic() + environment.parsed_options.timeout_s + GRACE_S + DELIVERY_S
        while {c.id for c in runner.clients.all if c.state != STATE_MISSING} - HEARD and time.monotonic() < deadline:
            gevent.sleep(LOOK_S)


def _hear(msg: Any, **_: Any) -> None:
    TAKEN.update({model: Taken.from_dict(document) for model, document in msg.data.items()})
    HEARD.add(msg.node_id)
