"""Who reaches what, as the policies have it: those who should, and nobody else."""

from collections.abc import Iterator, Mapping

from rendering import Manifests, Object, ports, selects


def network(m: Manifests) -> Iterator[str]:
    for item in m.of("NetworkPolicy"):
        for rule in [*item["spec"].get("ingress", []), *item["spec"].get("egress", [])]:
            for peer in [*rule.get("from", []), *rule.get("to", [])]:
                if "ipBlock" in peer and len(peer) > 1:
                    yield f"{item['metadata']['name']}: an ipBlock beside another selector"
        chosen = [
            p
            for _, pod, found in m.pods()
            if selects(item["spec"]["podSelector"]["matchLabels"], found)
            for p in ports(pod)
        ]
        names = {p["name"] for p in chosen}
        for port in (p["port"] for rule in item["spec"].get("ingress", []) for p in rule.get("ports", [])):
            if isinstance(port, str) and port not in names:
                yield f"{item['metadata']['name']}: no container has the port {port}"
    if not any(o["metadata"]["name"] == "triton" for o in m.of("NetworkPolicy")):
        if any(o["metadata"]["name"] == "triton" for o in m.of("Deployment")):
            yield "everybody may come in"
        return
    spec = m.one("NetworkPolicy", "triton")["spec"]
    if set(spec.get("policyTypes", [])) != {"Ingress", "Egress"}:
        yield "nothing bounds what comes in, or what goes out"
    here = {"kubernetes.io/metadata.name": "rfserve"}
    monitoring = {"kubernetes.io/metadata.name": "monitoring"}
    prometheus = {"app.kubernetes.io/name": "prometheus"}
    for who, namespace, labels, expected in (
        ("a stranger", here, {}, set()),
        ("a stranger elsewhere", {"kubernetes.io/metadata.name": "other"}, {"rfserve/client": "true"}, set()),
        ("a client", here, {"rfserve/client": "true"}, {"grpc"}),
        ("a client's namespace", {"rfserve/clients": "true"}, {}, {"grpc"}),
        ("Prometheus", monitoring, prometheus, {"metrics"}),
        ("another pod beside Prometheus", monitoring, {}, set()),
        ("what calls itself Prometheus", {"kubernetes.io/metadata.name": "other"}, prometheus, set()),
        ("the release", here, {"app.kubernetes.io/component": "release"}, {"grpc"}),
    ):
        admitted = _admitted(spec, namespace, labels, home=here)
        if admitted != expected:
            yield f"{who} reaches {sorted(admitted)}; expected {sorted(expected)}"


def meeting_point(m: Manifests) -> Iterator[str]:
    """The master of a load test obeys whoever speaks to it."""
    if not any(o["metadata"]["name"] == "load-master" for o in m.of("Job")):
        return
    policies = [o["spec"] for o in m.of("NetworkPolicy") if o["metadata"]["name"] == "load-master"]
    here = {"kubernetes.io/metadata.name": "rfserve"}
    for labels, expected in (({}, set()), ({"app.kubernetes.io/component": "load-worker"}, {"locust"})):
        reached = [_admitted(spec, here, labels, home=here) for spec in policies]
        if reached != [expected]:
            yield f"a pod with {labels} reaches {reached} of the master; expected {expected or 'nothing'}"


def _admitted(spec: Object, namespace: Mapping[str, str], labels: Mapping[str, str], home: object) -> set[str]:
    """The ports that a pod with these labels reaches, in a namespace with those."""
    found: set[str] = set()
    for rule in spec.get("ingress", []):
        for peer in rule.get("from", [{}]):
            from_there = (
                selects(peer["namespaceSelector"].get("matchLabels", {}), namespace)
                if ("namespaceSelector" in peer)
                else (not peer or namespace == home)
            )
            if from_there and selects(peer.get("podSelector", {}).get("matchLabels", {}), labels):
                found |= {p["port"] for p in rule.get("ports", [])} or {"every port"}
    return found


RULES = (network, meeting_point)
