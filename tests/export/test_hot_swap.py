"""The short form of the hot swap benchmark."""

import asyncio

import pytest
from hot_swap import ENSEMBLE, NETWORK, VERSIONS, measure, publish_two

from rfserve.server.process import ServerOptions, TritonServer
from rfserve.server.security import Security


@pytest.mark.server
def test_swaps_under_load_fail_no_request_and_answer_as_the_version_they_name(tmp_path, capsys):
    repository = publish_two(tmp_path)
    options = ServerOptions(
        repository=tmp_path, grpc_port=0, http_port=0, metrics_port=0, security=Security(open_admin=True)
    )
    with TritonServer(options) as server:
        found = asyncio.run(measure(tmp_path, repository, server.grpc_url, swaps=5))
    with capsys.disabled():
        print(f"\n{found}")
    assert found.failures == {}
    assert found.wrong == 0
    # Both versions were met, alone and in the ensemble.
    assert set(found.by_version) == {(spec.name, v) for spec in (NETWORK, ENSEMBLE) for v in VERSIONS}
    assert min(found.answers.values()) > 20
