"""The short form of the hot swap benchmark."""

import asyncio
import shutil
from pathlib import Path

import pytest
from hot_swap import ENSEMBLE, FRONT, NETWORK, VERSIONS, measure
from served import BriefServer, publish_untrained

from rfserve.export import release
from rfserve.export.repository import Repository
from rfserve.server.process import ServerOptions
from rfserve.server.security import Security


@pytest.fixture
def two_versions(repository: Path, tmp_path: Path) -> Repository:
    """What the benchmark publishes, of what is exported already but for the second version."""
    for spec in (FRONT, NETWORK, ENSEMBLE):
        shutil.copytree(repository / spec.name, tmp_path / spec.name)
    made = Repository(tmp_path)
    publish_untrained([NETWORK.name], made, seed=1)
    release.promote(made, NETWORK, 1)
    return made


@pytest.mark.server
def test_swaps_under_load_fail_no_request_and_answer_as_the_version_they_name(two_versions, tmp_path, capsys):
    options = ServerOptions(
        repository=tmp_path, grpc_port=0, http_port=0, metrics_port=0, security=Security(open_admin=True)
    )
    with BriefServer(options) as server:
        found = asyncio.run(measure(tmp_path, two_versions, server.grpc_url, swaps=5))
    with capsys.disabled():
        print(f"\n{found}")
    assert found.failures == {}
    assert found.wrong == 0
    # Both versions were met, alone and in the ensemble.
    assert set(found.by_version) == {(spec.name, v) for spec in (NETWORK, ENSEMBLE) for v in VERSIONS}
    assert min(found.answers.values()) > 20
