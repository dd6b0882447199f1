"""The pods behind a Kubernetes Service, as its EndpointSlices (discovery.k8s.io/v1) name them."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from rfserve.release.cluster import ClusterApi
from rfserve.release.errors import ClusterError
from rfserve.release.pods import Pod, Sighting

SERVICE_LABEL = "kubernetes.io/service-name"
PAGE = 500


class ServicePods:
    """The pods of a Service at each look. `port` is the name of its gRPC port, or its number."""

    def __init__(self, api: ClusterApi, service: str, port: str) -> None:
        self._api, self._service, self._port = api, service, port

    def look(self) -> Sighting:
        """The pods that take requests, and those that start; one that terminates is not among them.

        `ClusterError` when the API does not answer or refuses, or no slice has such a port.
        """
        slices = list(self._slices())
        ready: dict[str, Pod] = {}
        starting: dict[str, Pod] = {}
        for item in slices:
            port = self._port_of(item)
            if port is None:
                continue
            for endpoint in item.get("endpoints") or ():
                conditions = endpoint.get("conditions") or {}
                if conditions.get("terminating"):
                    continue
                # Absent means unknown, which the API has its readers take for ready.
                place = ready if conditions.get("ready") is not False else starting
                for pod in _pods(endpoint, port, str(item.get("addressType"))):
                    place[pod.address] = pod
        if not ready and not starting and any(item.get("endpoints") for item in slices):
            ports = sorted({f"{p.get('name') or '-'}:{p.get('port')}" for i in slices for p in i.get("ports") or ()})
            raise ClusterError(
                f"service {self._service} has no pod to be released to on port {self._port!r}: its slices have ports "
                f"{', '.join(ports) or 'none'}; give --port, or see whether all of its pods are ending"
            )
        return Sighting(ready=tuple(ready.values()), starting=tuple(p for a, p in starting.items() if a not in ready))

    def _slices(self) -> Iterator[Mapping[str, Any]]:
        """All slices, page by page: one holds at most 1000 endpoints, and the answer at most `PAGE` of them."""
        path = f"/apis/discovery.k8s.io/v1/namespaces/{self._api.namespace}/endpointslices"
        query = {"labelSelector": f"{SERVICE_LABEL}={self._service}", "limit": str(PAGE)}
        following: str | None = ""
        while following is not None:
            page = self._api.get(f"{path}?{urlencode(query | ({'continue': following} if following else {}))}")
            if page.get("kind") != "EndpointSliceList" or not isinstance(page.get("items"), list):
                raise ClusterError(f"{self._api.url} answered {str(page)[:200]}; expected an EndpointSliceList")
            yield from page["items"]
            following = (page.get("metadata") or {}).get("continue") or None

    def _port_of(self, item: Mapping[str, Any]) -> int | None:
        for port in item.get("ports") or ():
            if self._port in {str(port.get("name")), str(port.get("port"))}:
                return int(port["port"])
        return None


def _pods(endpoint: Mapping[str, Any], port: int, kind: str) -> Iterator[Pod]:
    name = (endpoint.get("targetRef") or {}).get("name")
    # Endpoints of a slice are fungible: more than one address is another way to the same pod.
    for address in (endpoint.get("addresses") or ())[:1]:
        where = f"[{address}]:{port}" if kind == "IPv6" else f"{address}:{port}"
        yield Pod(name=str(name or where), address=where)
