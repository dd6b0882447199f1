"""Two versions on the same inputs, in metres and per cent: examples, tensors in a file, and recordings."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ungated import publish_ungated

from rfserve.clients.cli import main as client
from rfserve.clients.synthetic_event import SyntheticEvent, write
from rfserve.export import comparison
from rfserve.export.cli import main
from rfserve.export.errors import ExportError, VersionNotFound
from rfserve.export.networks.scaled import in_physical_units
from rfserve.export.publication import Source, build_network
from rfserve.export.repository import Repository
from rfserve.export.scaling import NEW_WEIGHTS
from rfserve.export.spec import GRAPHS, MODELS, ModelSpec, example

NETWORK, FRONT = GRAPHS["heimdall_net"], GRAPHS["iq_features"]
NEW = NEW_WEIGHTS[NETWORK.name]
SHIFT_M = (300.0, -400.0)
WIDER = 1.1


def publish_graph(repository: Repository, spec: ModelSpec, scaling=None) -> None:
    built = build_network(spec, Source(variant="tiny") if spec.variants else Source())
    if scaling is not None:
        built = replace(built, module=in_physical_units(spec.name, built.module.network, scaling), scaling=scaling)
    publish_ungated(repository, spec, built)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Version 2 is version 1, but it places everything 300 m north and 400 m west; version 3 is 10% less sure."""
    folder: Path = tmp_path_factory.mktemp("model_repository")
    repository = Repository(folder)
    wider = tuple(WIDER * s for s in NEW.target_scale)
    publish_graph(repository, FRONT)
    publish_graph(repository, NETWORK, NEW)
    publish_graph(repository, NETWORK, replace(NEW, target_offset=SHIFT_M))
    publish_graph(repository, NETWORK, replace(NEW, target_scale=wider))
    return folder


@pytest.fixture(scope="module")
def collection(tmp_path_factory) -> Path:
    return write(SyntheticEvent(), tmp_path_factory.mktemp("event"))


def test_examples_are_the_default_and_show_a_known_shift(folder, capsys):
    assert main(["diff", "heimdall_net", "1", "2", "--repository", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "on 32 random examples of the spec; give --recordings" in out
    compared = comparison.compare(Repository(folder), NETWORK, 1, 2)
    # Heimdall's metres for a degree are not quite the ellipsoid's; float32 degrees of longitude resolve 0.1 m here.
    np.testing.assert_allclose(compared.drift.position_m, 500, rtol=0.02)
    assert compared.drift.sigma_worst_percent < 1e-3
    assert f"worst {compared.drift.position_worst_m:.2f} m" in out
    assert out.count("\nexample ") == 32


def test_change_of_sigma_is_in_per_cent(folder):
    drift = comparison.compare(Repository(folder), NETWORK, 1, 3).drift
    np.testing.assert_allclose(drift.sigma_percent, 10, atol=1e-3)


def test_version_does_not_differ_from_itself(folder):
    drift = comparison.compare(Repository(folder), NETWORK, 2, 2).drift
    assert (drift.position_worst_m, drift.sigma_worst_percent) == (0, 0)


def test_inputs_of_a_file_are_compared_in_batches(folder, tmp_path, capsys):
    file = tmp_path / "inputs.npz"
    parts = [example(NETWORK, batch=20, seed=seed) for seed in range(2)]
    np.savez(file, **{name: np.concatenate([p[name] for p in parts]) for name in parts[0]})
    assert main(["diff", "heimdall_net", "1", "2", "--inputs", str(file), "--repository", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "on 40 rows of inputs.npz" in out
    assert "row 39 " in out


def test_rows_that_are_no_fix_are_counted(folder, tmp_path):
    inputs = example(NETWORK, batch=3)
    inputs["receiver_ids"][1, 0] = 99
    np.savez(tmp_path / "inputs.npz", **inputs)
    compared = comparison.compare(Repository(folder), NETWORK, 1, 2, inputs=tmp_path / "inputs.npz")
    assert compared.drift.rows.tolist() == [0, 2]
    assert "1 of 3 events are no fix in either version" in compared.text()


@pytest.mark.parametrize("lack", ["file", "input", "rows", "dtype"])
def test_inputs_that_do_not_fit_are_refused(folder, tmp_path, lack, capsys):
    file = tmp_path / "inputs.npz"
    inputs = example(NETWORK, batch=2)
    if lack == "input":
        del inputs["mask"]
    elif lack == "rows":
        inputs["mask"] = inputs["mask"][:1]
    elif lack == "dtype":
        inputs["iq_data"] = inputs["iq_data"].astype(np.float64)
    if lack != "file":
        np.savez(file, **inputs)
    assert main(["diff", "heimdall_net", "1", "2", "--inputs", str(file), "--repository", str(folder)]) == 1
    err = capsys.readouterr().err
    assert "expected" in err
    assert err.count("\n") == 1


def test_recordings_go_through_the_front_end(folder, collection, capsys):
    two = ["--recordings", str(collection), str(collection.parent / "synthetic_R1.sigmf-meta")]
    assert main(["diff", "heimdall_net", "1", "2", *two, "--repository", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "on 2 recorded events through iq_features version 1" in out
    assert "synthetic (synthetic_R1, synthetic_R2, synthetic_R3, synthetic_R4)" in out
    drift = comparison.compare(Repository(folder), NETWORK, 1, 2, recordings=[collection]).drift
    np.testing.assert_allclose(drift.position_m, 500, rtol=0.02)


def test_recordings_become_what_the_server_would_be_sent(collection, tmp_path):
    """The tensors of the client's own request."""
    from rfserve.clients.alignment import align
    from rfserve.clients.recording import read_event
    from rfserve.clients.request import tensors

    file = tmp_path / "tensors.npz"
    assert client(["tensors", str(collection), "--model", "locate", "--output", str(file)]) == 0
    expected = tensors(MODELS["locate"], [align(read_event([collection]))])
    with np.load(file) as written:
        assert set(written.files) == set(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(written[name], array)


def test_spectrogram_model_takes_every_receiver_as_an_event(collection, tmp_path, capsys):
    repository = Repository(tmp_path / "repository")
    publish_graph(repository, GRAPHS["mel_features"])
    for _ in range(2):
        publish_graph(repository, GRAPHS["localization_net"])
    compared = comparison.compare(repository, GRAPHS["localization_net"], 1, 2, recordings=[collection])
    assert compared.inputs.names == tuple(f"synthetic_R{i}" for i in range(1, 5))
    assert compared.inputs.origin == "4 recorded events through mel_features version 1"
    assert compared.drift.position_worst_m == 0


def test_events_of_different_lengths_are_cut_to_the_shortest(collection, tmp_path, capsys):
    content = json.loads((collection.parent / "synthetic_R1.sigmf-meta").read_text())
    content["global"].pop("core:sha512", None)
    (tmp_path / "short.sigmf-meta").write_text(json.dumps(content))
    data = (collection.parent / "synthetic_R1.sigmf-data").read_bytes()
    (tmp_path / "short.sigmf-data").write_bytes(data[: len(data) // 2])
    file = tmp_path / "tensors.npz"
    both = ["tensors", str(collection), str(tmp_path / "short.sigmf-meta"), "--output", str(file)]
    assert client(both) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["recordings", "synthetic"]
    with np.load(file) as written:
        assert written["raw_iq"].shape == (2, 10, 2, 8192)
        assert written["mask"].sum(axis=1).tolist() == [1, 4]


def test_client_that_is_not_installed_is_named(folder, collection, tmp_path, monkeypatch):
    blocked = tmp_path / "python"
    blocked.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'import no_such_sigmf'\n")
    blocked.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(blocked))
    with pytest.raises(
        ExportError, match=r"not installed whole \(.*No module named 'no_such_sigmf'\).*rfserve\[clients\]"
    ):
        comparison.compare(Repository(folder), NETWORK, 1, 2, recordings=[collection])


def test_recordings_that_cannot_be_read_are_refused_with_the_clients_reason(folder, capsys, tmp_path):
    arguments = ["--recordings", str(tmp_path / "no.sigmf-collection"), "--repository", str(folder)]
    assert main(["diff", "heimdall_net", "1", "2", *arguments]) == 1
    assert "cannot make tensors of the recordings: cannot read no.sigmf-collection" in capsys.readouterr().err


def test_versions_and_models_without_positions_are_refused(folder):
    with pytest.raises(VersionNotFound, match=r"heimdall_net/7 is not published in .*; it has \[1, 2, 3\]"):
        comparison.compare(Repository(folder), NETWORK, 1, 7)
    for name in ("iq_features", "locate"):
        with pytest.raises(ExportError, match="no versions with positions of their own; compare heimdall_net"):
            comparison.compare(Repository(folder), MODELS[name], 1, 1)


def test_missing_front_end_is_named(folder, collection, tmp_path):
    bare = Path(shutil.copytree(folder, tmp_path / "bare"))
    shutil.rmtree(bare / "iq_features")
    with pytest.raises(
        VersionNotFound, match="no iq_features to take recordings through: `rfserve-export write iq_fea"
    ):
        comparison.compare(Repository(bare), NETWORK, 1, 2, recordings=[collection])


@pytest.mark.recordings
@pytest.mark.skipif("RFSERVE_RECORDINGS" not in os.environ, reason="RFSERVE_RECORDINGS names no folder")
def test_versions_are_compared_on_a_real_event(folder):
    event = Path(os.environ["RFSERVE_RECORDINGS"]) / "sigmf" / "dcf77-20200813" / "dcf77-20200813.sigmf-collection"
    command = [sys.executable, "-m", "rfserve.export.cli", "diff", "heimdall_net", "1", "2", "--recordings", str(event)]
    done = subprocess.run(
        [*command, "--repository", str(folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "1 recorded event through iq_features version 1" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("dcf77-20200813 (HB9ODP, JO51xl, pa0rdt)")]
    shift_m, north, east = (float(part) for part in line.split()[-3:])
    assert shift_m == pytest.approx(500, rel=0.05)
    assert (north, east) == pytest.approx((0, 0), abs=1e-3)
