"""What a server is asked and compared with when a version is checked on it; no server is needed to see that."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ungated import publish_ungated

from rfserve.export import comparison, local_model
from rfserve.export.errors import GraphError, LiveServerError
from rfserve.export.live_check import Conformance
from rfserve.export.local_model import LocalModel
from rfserve.export.publication import Source, build_network, publish
from rfserve.export.repository import Repository
from rfserve.export.scaling import Scaling
from rfserve.export.spec import ENSEMBLES, GRAPHS

NETWORK, FRONT, ENSEMBLE = GRAPHS["heimdall_net"], GRAPHS["iq_features"], ENSEMBLES["locate"]
UNIT = (500.0, 500.0)
CAMPUS = Scaling(
    origin=(40.76, -111.84),
    features_are_local=True,
    feature_scale=(20.0, 40.0, 1_000.0, *UNIT, 1_000.0),
    position_scale=(*UNIT, 1_000.0),
    target_scale=UNIT,
    reach_m=1_000.0,
)
RIGHT, WRONG, BROKEN = 1, 2, 3


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Repository:
    """A network that knows a single place, twice more with sigmas that are metres off, or NaN; and its ensemble."""
    repository = Repository(tmp_path_factory.mktemp("model_repository"))
    publish_ungated(repository, FRONT, build_network(FRONT, Source()))
    built = build_network(NETWORK, Source(scaling=CAMPUS))
    for shift in (0.0, 0.04, np.nan):
        with torch.no_grad():
            built.module.network.uncertainty_head[2].bias += shift
        publish_ungated(repository, NETWORK, built)
    publish(ENSEMBLE, repository, Source(), version=None, report=lambda _: None)
    return repository


class Server:
    """Answers as `LiveServer` does, with a version of the network under the number that it was asked for."""

    url, timeout_s = "here", 1.0

    def __init__(self, repository: Repository, version: int) -> None:
        self._front, self._network = LocalModel(repository, FRONT, 1), LocalModel(repository, NETWORK, version)
        self.asked: list[dict] = []

    def infer(self, model, inputs, version=None, served_as=None):
        self.asked.append(inputs)
        if model == NETWORK.name:
            return self._network.run(inputs), RIGHT
        models = {m.spec.name: m for m in (self._front, self._network)}
        return local_model.ensemble_outputs(ENSEMBLE, inputs, lambda m, arrays: models[m.name].run(arrays)), RIGHT

    def target(self, model):
        return "cpu"

    def served_versions(self, model):
        return [RIGHT]


@pytest.mark.parametrize("spec", [NETWORK, ENSEMBLE], ids=lambda s: s.name)
def test_network_that_knows_a_single_place_is_asked_there(repository: Repository, spec):
    server = Server(repository, RIGHT)
    assert Conformance(repository, spec, RIGHT).check(server, pinned=True).worst_ratio == 0
    assert len(server.asked) == 3
    for inputs in server.asked:
        places = inputs["receiver_positions"][inputs["mask"]][:, :2]
        metres = (places - np.float32(CAMPUS.origin)) * CAMPUS.metres_per_degree
        assert np.median(np.abs(metres)) < 2 * UNIT[0]
    # The answers are sigmas, not distances from the place.
    assert all(server.infer(spec.name, inputs)[0]["uncertainties"].max() < 1e5 for inputs in list(server.asked))
    with pytest.raises(LiveServerError, match=r"answers uncertainties that differ by .* serve this repository"):
        Conformance(repository, spec, RIGHT).check(Server(repository, WRONG), pinned=True)


def test_versions_are_compared_there_too(repository: Repository):
    drift = comparison.compare(repository, NETWORK, RIGHT, WRONG).drift
    assert drift.sigma_p50_percent > 1
    assert drift.position_worst_m == 0


def test_version_that_answers_nan_is_refused_before_a_server_is_asked(repository: Repository):
    server = Server(repository, BROKEN)
    with pytest.raises(GraphError, match=r"heimdall_net/3 answers uncertainties that are not finite .*sound weights"):
        Conformance(repository, NETWORK, BROKEN).check(server, pinned=True)
    assert server.asked == []


def test_other_networks_are_asked_the_specs_examples(repository: Repository, tmp_path: Path):
    elsewhere = Repository(tmp_path)
    publish_ungated(elsewhere, NETWORK, replace(build_network(NETWORK, Source()), scaling=Scaling()))
    server = Server(repository, RIGHT)
    with pytest.raises(LiveServerError, match="differ"):
        Conformance(elsewhere, NETWORK, 1).check(server, pinned=True)
    assert 44 < server.asked[0]["receiver_positions"][..., 0].min() < 46
