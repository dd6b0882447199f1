"""Bringing a dead model back: its processes are retired, it is unloaded and loaded, and a canary must pass."""

import time
from collections.abc import Callable

from rfserve.server import model_table
from rfserve.server.canary import Outcome, ensemble_steps, from_server
from rfserve.server.http_api import HttpApi

PAUSE_S = 0.2


def mend(
    http: HttpApi, model: str, *, retire: Callable[[], None], limit_s: float, deadline_s: float
) -> tuple[bool, str]:
    """Whether `model` answers again within `limit_s`, and why not. Tries until then.

    Loading alone does nothing to a model that Triton believes to be ready, hence the unload. Ensembles that run it
    leave and come back with it; one that did not come back is loaded too.
    """
    end = time.monotonic() + limit_s
    ensembles = _ensembles_of(http, model)
    reason = "no time"
    while (left := end - time.monotonic()) > 0:
        retire()
        # A refusal says that it is not loaded, and loading is what it needs.
        http.unload(model, timeout_s=left)
        answer = http.load(model, timeout_s=max(end - time.monotonic(), PAUSE_S))
        reason = model_table.plain_reason(answer.reason)
        if answer.ok:
            for ensemble in ensembles:
                if not http.model_ready(ensemble):
                    http.load(ensemble, timeout_s=max(end - time.monotonic(), PAUSE_S))
            canary = from_server(http, model, deadline_s)
            if canary is not None:
                result = canary.send(http, deadline_s)
                if result.outcome in {Outcome.OK, Outcome.BUSY}:
                    return True, ""
                reason = result.reason
        time.sleep(PAUSE_S)
    return False, reason


def _ensembles_of(http: HttpApi, model: str) -> list[str]:
    others = sorted({name for name, _ in http.served_versions() or ()} - {model})
    return [name for name in others if model in ensemble_steps(http.config(name) or {})]
