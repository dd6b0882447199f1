"""`probe.py ready` and `probe.py live`: what the kubelet asks of the Triton beside it. Standard library only.

Ready: every model's own endpoint says so. The server's endpoint is no measure: it is false while any model loads, and
stays false after one failed load.

Live: no process that Triton's Python backend runs an instance in has died or stands still, and every network answers an
inference, one for each of its instances at once. Triton says live, and ready, for an instance that is dead. A refusal
is an answer: a server with a full queue is busy, and to restart it would make the others busier. So is a model that is
not there: readiness is for that, and a restart would not bring it back sooner.

The processes come first, because inferences do not meet an instance that is taken. A dead one holds each request for
1.1 s before that fails, and takes the next; a stopped one holds one for ever. Of a busy model, 7 probes of 48 met the
dead instance with inferences alone, never two in a row; a kubelet acts after six. Every probe sees the process.

The models and the requests are those that the init container wrote, `index.json` in the folder of PROBE_REQUESTS.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REQUESTS = Path(os.environ.get("PROBE_REQUESTS", "/models/canaries"))
URL = os.environ.get("PROBE_URL", "http://127.0.0.1:8000")
READY_TIMEOUT_S = 2.0
# Over loopback the answer follows the deadline that the server was given at once.
MARGIN_S = 0.5
PROC = Path("/proc")
STUB = "triton_python_backend_stub"
# The kernel keeps no more of a name.
NAME_LETTERS = 15
LOST = {"Z": "has died", "T": "is stopped"}
# One that leaves with its model is a zombie until Triton has waited for it.
LEAVING_S = 0.3
NO_ANSWER, OK, FORBIDDEN, SERVER_ERROR, BUSY = 0, 200, 403, 500, 503
# Past any proxy of the environment, which would be given the key.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def main():
    """0 when it is so, 1 with the reason, which `kubectl describe pod` shows."""
    index = json.loads((REQUESTS / "index.json").read_text())
    question = sys.argv[1]
    problems = {"ready": not_ready, "live": not_live}[question](index)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def not_ready(index):
    """The models that are not."""
    statuses = {m: call(f"/v2/models/{m}/ready", None, {}, READY_TIMEOUT_S)[0] for m in index["models"]}
    return [f"{model} is not ready ({status or 'no answer'})" for model, status in statuses.items() if status != OK]


def not_live(index):
    """The processes that run no instance any more; without such, the networks of which one does not answer, and why."""
    lost = lost_stubs()
    if lost:
        time.sleep(LEAVING_S)
        lost &= lost_stubs()
    if lost:
        return sorted(lost)
    asked = [canary for canary in index["canaries"] for _ in range(canary["instances"])]
    with ThreadPoolExecutor(max(1, len(asked))) as pool:
        found = list(pool.map(fault, asked))
    return sorted({f"{canary['model']}: {words}" for canary, words in zip(asked, found, strict=True) if words})


def lost_stubs():
    """The processes of the Python backend that died or stand still; none where the backend is another.

    Triton never waits for one that died: to load its model anew mends the model, and leaves the remains to a restart.
    """
    found = set()
    for file in PROC.glob("[0-9]*/stat"):
        try:
            pid, _, rest = file.read_text().partition(" (")
        except OSError:
            # It has ended.
            continue
        name, _, fields = rest.rpartition(") ")
        if name == STUB[:NAME_LETTERS] and fields[:1] in LOST:
            found.add(f"{STUB} {pid} {LOST[fields[0]]}")
    return found


def fault(canary):
    """What is wrong with the answer; empty when nothing is, or when it is a refusal."""
    body = (REQUESTS / f"{canary['model']}.request").read_bytes()
    headers = {
        "Inference-Header-Content-Length": str(canary["header_bytes"]),
        # Inference over HTTP is closed to whoever has no key.
        "admin-key": os.environ.get("ADMIN_KEY", ""),
    }
    path = f"/v2/models/{canary['model']}/infer"
    status, answer, header_bytes = call(path, body, headers, canary["deadline_s"] + MARGIN_S)
    if status == OK:
        got = outputs(json.loads(answer[: header_bytes or None]))
        return "" if got == canary["outputs"] else f"got outputs {got}; expected {canary['outputs']}"
    if status == NO_ANSWER:
        return "no answer"
    if status == FORBIDDEN:
        return "the key in ADMIN_KEY is not the server's"
    text = answer.decode(errors="replace")
    refused = status < SERVER_ERROR or status == BUSY or "timeout expired" in text
    return "" if refused else text[:200]


def outputs(document):
    """Shape and size in bytes of each: a server that is broken may answer well, with nothing in it."""
    return {o["name"]: [o["shape"], o.get("parameters", {}).get("binary_data_size")] for o in document["outputs"]}


def call(path, body, headers, timeout_s):
    """(status, body, bytes of its JSON header); status 0 when nobody answered in time."""
    request = urllib.request.Request(URL + path, data=body, headers=headers)  # noqa: S310 - our own pod
    try:
        with DIRECT.open(request, timeout=timeout_s) as answer:
            return answer.status, answer.read(), int(answer.headers.get("Inference-Header-Content-Length", 0))
    except urllib.error.HTTPError as error:
        return error.code, error.read(), 0
    except OSError:
        return NO_ANSWER, b"", 0


if __name__ == "__main__":
    sys.exit(main())
