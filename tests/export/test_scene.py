"""Scenes: reproducible, inside the specs, and with the variety of recordings."""

import numpy as np
import pytest

from rfserve.export.scene import scenes
from rfserve.export.spec import ENSEMBLES, GRAPHS

NETWORKS = [s for s in GRAPHS.values() if s.has_weights]


@pytest.mark.parametrize("spec", NETWORKS, ids=lambda s: s.name)
def test_scenes_fit_the_spec_and_are_finite(spec):
    rows = scenes(spec, 12, seed=3)
    spec.check(rows)
    assert all(np.isfinite(a).all() for a in rows.values())
    again, other = scenes(spec, 12, seed=3), scenes(spec, 12, seed=4)
    first = spec.inputs[0].name
    assert all((again[n] == rows[n]).all() for n in rows)
    assert (other[first] != rows[first]).any()


def test_every_network_can_be_put_into_a_scene():
    assert {e.steps[-1].model.name for e in ENSEMBLES.values()} == {s.name for s in NETWORKS}
    with pytest.raises(ValueError, match="no ensemble ends in mel_features"):
        scenes(GRAPHS["mel_features"], 1)


def test_scenes_vary_as_recordings_do():
    rows = scenes(GRAPHS["heimdall_net"], 40, seed=5)
    mask = rows["mask"]
    snr_db, offset_hz = rows["features"][..., 0][mask], rows["features"][..., 2][mask]
    assert set(mask.sum(1)) > {1, 5, 10}
    assert snr_db.min() < 0
    assert snr_db.max() > 25
    assert np.median(np.abs(offset_hz)) < 2_000
    assert (rows["features"][~mask] == 0).all()
    # Receivers of one scene stand near each other, scenes stand apart.
    latitudes = rows["receiver_positions"][..., 0]
    spread = np.array([np.ptp(latitudes[i][mask[i]]) for i in range(40)])
    assert spread.max() < 5
    assert np.ptp(latitudes[mask]) > 50
