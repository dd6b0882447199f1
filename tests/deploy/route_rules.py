"""What would be wrong with how calls come in through a Gateway, and schemas let through."""

import re
from collections.abc import Iterator

from rendering import Manifests, Object

# https://gateway-api.sigs.k8s.io/geps/gep-2257: no fractions, and nothing longer than five digits.
DURATION = re.compile(r"([0-9]{1,5}(h|m|s|ms)){1,4}")
# The Service that a route needs before and after a canary: its pod is of another overlay, and may not be there.
BESIDE = {"triton-canary"}
CHANGING = ("Repository", "SharedMemory", "Trace", "Log")


def routes(m: Manifests) -> Iterator[str]:
    services = {o["metadata"]["name"] for o in m.of("Service")}
    for rule in _rules(m):
        for match in rule.get("matches", []):
            method = match.get("method", {"service": "any"})
            if not {"service", "method"} & method.keys():
                yield "a match of a method needs a service or a method"
        for duration in rule.get("timeouts", {}).values():
            if not DURATION.fullmatch(duration):
                yield f"{duration} is no duration of the Gateway API"
        for backend in rule["backendRefs"]:
            if backend["name"] not in services or backend["port"] != 8001:
                yield f"no Service {backend['name']} has the port {backend['port']}"


def shares(m: Manifests) -> Iterator[str]:
    for rule in _rules(m):
        weights = {b["name"]: b.get("weight", 1) for b in rule["backendRefs"]}
        if not any(weights.values()):
            yield "all weights are 0: every call would fail"
        if any(weights[name] for name in BESIDE & weights.keys()):
            yield "calls go to a canary that may not be there"


def administration(m: Manifests) -> Iterator[str]:
    for rule in _rules(m):
        for match in rule.get("matches", [{}]):
            method = match.get("method", {}).get("method", "")
            if not method or any(word in method for word in CHANGING):
                yield "administrative calls come in through the gateway"


def _rules(m: Manifests) -> Iterator[Object]:
    for item in m.of("GRPCRoute", "HTTPRoute"):
        yield from item["spec"]["rules"]


RULES = (routes, shares, administration)
