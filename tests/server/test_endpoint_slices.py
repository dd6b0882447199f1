"""Pods as a Kubernetes API names them, over real HTTPS: who asks how, and what is made of each answer."""

import shutil

import pytest

from rfserve.release.cluster import ClusterApi
from rfserve.release.endpoint_slices import ServicePods
from rfserve.release.errors import ClusterError
from rfserve.release.pods import Pod, Sighting


def endpoint(name: str, address: str, **conditions: bool) -> dict:
    return {"addresses": [address], "conditions": conditions, "targetRef": {"kind": "Pod", "name": name}}


def slice_of(endpoints, ports=None, kind: str = "IPv4", service: str = "triton") -> dict:
    return {
        "metadata": {"name": "triton-x", "labels": {"kubernetes.io/service-name": service}},
        "addressType": kind,
        "endpoints": endpoints,
        "ports": [{"name": name, "port": port} for name, port in (ports or {"grpc": 8001, "http": 8000}).items()],
    }


def api(cluster) -> ClusterApi:
    host, _, port = cluster.url.removeprefix("https://").rpartition(":")
    environment = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    return ClusterApi.of_pod(environment, folder=cluster.account)


@pytest.fixture
def pods(cluster) -> ServicePods:
    return ServicePods(api(cluster), "triton", "grpc")


def test_pods_are_ready_starting_or_left_out_when_they_end(cluster, pods):
    cluster.slices = [
        slice_of(
            [
                endpoint("a", "10.0.0.1", ready=True, serving=True, terminating=False),
                endpoint("b", "10.0.0.2", ready=False, serving=False, terminating=False),
                endpoint("c", "10.0.0.3", ready=False, serving=True, terminating=True),
                endpoint("d", "10.0.0.4"),
            ]
        ),
        slice_of([endpoint("e", "fd00::5", ready=True)], kind="IPv6"),
        slice_of([endpoint("f", "10.0.0.6", ready=True)], ports={"metrics": 8002}),
        slice_of([endpoint("g", "10.0.0.7", ready=True)], service="other"),
    ]
    seen = pods.look()
    assert seen == Sighting(
        ready=(
            Pod(name="a", address="10.0.0.1:8001"),
            Pod(name="d", address="10.0.0.4:8001"),
            Pod(name="e", address="[fd00::5]:8001"),
        ),
        starting=(Pod(name="b", address="10.0.0.2:8001"),),
    )


def test_port_may_be_a_number_and_pods_may_have_ports_of_their_own(cluster):
    cluster.slices = [
        slice_of([endpoint("a", "10.0.0.1")], {"grpc": 8001}),
        slice_of([endpoint("b", "10.0.0.2")], {"grpc": 9001}),
    ]
    by_name, by_number = (ServicePods(api(cluster), "triton", port).look().ready for port in ("grpc", "9001"))
    assert [p.address for p in by_name] == ["10.0.0.1:8001", "10.0.0.2:9001"]
    assert [p.address for p in by_number] == ["10.0.0.2:9001"]


def test_every_page_is_read(cluster, pods):
    cluster.slices = [slice_of([endpoint(f"pod-{i}", f"10.0.0.{i}")]) for i in range(5)]
    cluster.page = 2
    assert [p.name for p in pods.look().ready] == [f"pod-{i}" for i in range(5)]
    assert len(cluster.paths) == 3


def test_service_without_pods_is_an_answer_and_one_without_the_port_is_not(cluster, pods):
    assert pods.look() == Sighting(ready=())
    cluster.slices = [slice_of([endpoint("a", "10.0.0.1")], {"http": 8000})]
    with pytest.raises(ClusterError, match=r"no pod .* on port 'grpc': its slices have ports http:8000; give --port"):
        pods.look()


def test_renewed_token_is_sent_and_an_old_one_refused(cluster, pods):
    cluster.serve({"a": "10.0.0.1:8001"})
    assert len(pods.look().ready) == 1
    cluster.renew("second-token")
    assert len(pods.look().ready) == 1
    (cluster.account / "token").write_text("first-token")
    with pytest.raises(ClusterError, match=r"refuses: 401 Unauthorized; is the token of this cluster"):
        pods.look()


def test_refusal_names_the_right_that_is_missing(cluster):
    (cluster.account / "namespace").write_text("elsewhere")
    with pytest.raises(ClusterError, match=r"403 endpointslices.*forbidden.*; the service account has to be allowed"):
        ServicePods(api(cluster), "triton", "grpc").look()


def test_server_of_another_authority_gets_no_token(cluster, stranger, pods):
    shutil.copy(stranger.file, cluster.account / "ca.crt")
    with pytest.raises(ClusterError, match=r"does not answer: .*CERTIFICATE_VERIFY_FAILED"):
        pods.look()
    assert cluster.paths == []


def test_what_a_pod_lacks_is_named(cluster, tmp_path):
    with pytest.raises(ClusterError, match=r"this is no pod of a cluster; name the pods with --pods"):
        ClusterApi.of_pod({}, folder=cluster.account)
    with pytest.raises(ClusterError, match=r"cannot read .*namespace.*automountServiceAccountToken"):
        ClusterApi.of_pod({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, folder=tmp_path / "nowhere")
    with pytest.raises(ClusterError, match="expected https"):
        ClusterApi(url="http://10.0.0.1:443", namespace="radio")
    found = ClusterApi.of_pod(
        {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT_HTTPS": "6443"}, folder=cluster.account
    )
    assert (found.url, found.namespace) == ("https://[fd00::1]:6443", "radio")


def test_silent_or_foreign_server_is_an_error(cluster):
    away = ClusterApi(
        url="https://127.0.0.1:9",
        namespace="radio",
        token=cluster.account / "token",
        authority=cluster.account / "ca.crt",
    )
    with pytest.raises(ClusterError, match=r"https://127\.0\.0\.1:9 does not answer: .*NetworkPolicy"):
        away.get("/")
    cluster._answer = lambda *_: (200, {"kind": "PodList", "items": []})
    with pytest.raises(ClusterError, match="expected an EndpointSliceList"):
        ServicePods(api(cluster), "triton", "grpc").look()
