"""The whole path: event, client, Triton, ensemble, fix."""

import asyncio
import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from rfserve.clients.alignment import align
from rfserve.clients.async_client import AsyncLocalizationClient
from rfserve.clients.cli import main
from rfserve.clients.client import LocalizationClient
from rfserve.clients.errors import ClockNotLocked, DeadlineExceeded, InvalidAnswer, ModelUnavailable, ServerUnavailable
from rfserve.clients.recording import read_event
from rfserve.clients.synthetic_event import SyntheticEvent, write
from rfserve.export import onnx_file
from rfserve.export.publication import Source, build_network
from rfserve.export.spec import GRAPHS, MODELS, example
from rfserve.loadtest.measurement import Run

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def event(tmp_path_factory):
    return write(SyntheticEvent(), tmp_path_factory.mktemp("event"))


@pytest.fixture(scope="module")
def observations(event):
    return align(read_event([event]))


@pytest.mark.parametrize("model", ["locate", "locate_pro"])
def test_event_is_located_as_the_networks_compute_it(server, observations, model):
    with LocalizationClient(server.grpc_url, model=model, timeout_s=30) as client:
        fix = client.locate(observations)
    from rfserve.clients import request

    network = {"locate": "heimdall_net", "locate_pro": "heimdall_net_pro"}[model]
    inputs = request.tensors(MODELS[model], [observations])
    front = GRAPHS["iq_features"]
    features = onnx_file.run_eager(build_network(front, Source()).module, front, inputs)
    module = build_network(GRAPHS[network], Source()).module
    expected = onnx_file.run_eager(module, GRAPHS[network], {**inputs, **features})
    np.testing.assert_allclose([fix.latitude_deg, fix.longitude_deg], expected["positions"][0], rtol=0, atol=2e-5)
    np.testing.assert_allclose([fix.sigma_north_m, fix.sigma_east_m], expected["uncertainties"][0], rtol=1e-3)
    assert fix.model_version == "1"
    assert fix.timings_ms["round_trip"] > 0


def test_batch_and_asynchronous_forms_give_the_same_fixes(server, observations):
    with LocalizationClient(server.grpc_url, timeout_s=30) as client:
        alone = client.locate(observations)
        batch = client.locate_batch([observations, observations[:3]])

    async def ask():
        async with AsyncLocalizationClient(server.grpc_url, timeout_s=30) as client:
            return await client.locate(observations)

    for fix in (batch[0], asyncio.run(ask())):
        assert fix.latitude_deg == pytest.approx(alone.latitude_deg, abs=1e-5)
        assert fix.longitude_deg == pytest.approx(alone.longitude_deg, abs=1e-5)
    assert batch[1].latitude_deg != batch[0].latitude_deg


def test_command_line_prints_a_fix_and_writes_a_map(server, event, tmp_path: Path, capsys):
    page = tmp_path / "fix.html"
    assert main(["locate", str(event), "--url", server.grpc_url, "--map", str(page), "--truth", "45.07,7.69"]) == 0
    assert "95%" in capsys.readouterr().out
    text = page.read_text()
    assert "R1" in text
    assert "src=" not in text
    assert main(["locate", str(event), "--url", server.grpc_url, "--output", "geojson"]) == 0
    shapes = json.loads(capsys.readouterr().out)["features"]
    assert [s["geometry"]["type"] for s in shapes] == ["Point", "Polygon"]


def test_spectrogram_model_takes_one_receiver(server, event, capsys):
    one = event.parent / "synthetic_R1.sigmf-meta"
    assert main(["locate", str(one), "--url", server.grpc_url, "--model", "locate_spectrogram"]) == 0
    assert main(["locate", str(event), "--url", server.grpc_url, "--model", "locate_spectrogram"]) == 1
    assert "takes one receiver, got 4" in capsys.readouterr().err


@pytest.mark.parametrize("name", MODELS)
def test_raw_tensors_of_every_model_are_answered(server, name, tmp_path: Path, capsys):
    np.savez(tmp_path / "in.npz", **example(MODELS[name], batch=2))
    out = tmp_path / "out.npz"
    arguments = ["infer", name, str(tmp_path / "in.npz"), "--url", server.grpc_url, "--output-file", str(out)]
    assert main(arguments) == 0, capsys.readouterr().err
    with np.load(out) as content:
        assert set(content.files) == {t.name for t in MODELS[name].outputs}
        assert all(len(content[n]) == 2 for n in content.files)


def test_bad_row_over_the_wire_is_nan_for_itself_alone(server):
    spec = GRAPHS["heimdall_net"]
    inputs = example(spec, batch=3)
    with LocalizationClient(server.grpc_url, timeout_s=30) as client:
        expected, _ = client.infer("heimdall_net", inputs)
        inputs["receiver_ids"][1, 0] = 99
        got, _ = client.infer("heimdall_net", inputs)
    assert np.isnan(got["positions"][1]).all()
    np.testing.assert_allclose(got["positions"][[0, 2]], expected["positions"][[0, 2]], rtol=0, atol=1e-5)


def test_failures_are_typed(server, observations):
    with LocalizationClient("127.0.0.1:9", timeout_s=0.5) as client, pytest.raises(ServerUnavailable, match="start a"):
        client.locate(observations)
    with LocalizationClient(server.grpc_url, timeout_s=1e-4) as client, pytest.raises(DeadlineExceeded):
        client.locate(observations)
    with LocalizationClient(server.grpc_url, timeout_s=5, version="77") as client, pytest.raises(ModelUnavailable):
        client.locate(observations)
    with LocalizationClient(server.grpc_url, timeout_s=5) as client:
        assert client.is_ready()
        bad = {**example(MODELS["locate"])}
        bad["mask"][:] = False
        answer, _ = client.infer("locate", bad)
        from rfserve.clients import request

        with pytest.raises(InvalidAnswer, match="row 0"):
            request.fixes(answer, model="locate", version="1", request_id="", timings_ms={})


@pytest.mark.recordings
def test_real_event_is_located_and_a_false_one_refused(server, recordings):
    sigmf = recordings / "sigmf"
    found = align(read_event([sigmf / "dcf77-20200813" / "dcf77-20200813.sigmf-collection"]))
    for model in ("locate", "locate_pro"):
        with LocalizationClient(server.grpc_url, model=model, timeout_s=30) as client:
            fix = client.locate(found)
            assert 44 < fix.latitude_deg < 54
            # The carrier's offset as the served front end measures it.
    with LocalizationClient(server.grpc_url, timeout_s=30) as client:
        from rfserve.clients import request

        inputs = request.tensors(MODELS["locate"], [found])
        inputs.pop("receiver_ids")
        answer, _ = client.infer("iq_features", inputs)
    truth = {r["id"]: r for r in json.loads((sigmf / "dcf77-20200813" / "truth.json").read_text())["receivers"]}
    for row, observation in zip(answer["features"][0], found, strict=False):
        assert abs(row[2]) < 0.05
        # 1.4 s of a time signal whose carrier drops every second: the long-time figure to 6 dB.
        assert row[0] == pytest.approx(truth[observation.name]["snr_db"], abs=6)
        assert row[1] == pytest.approx(truth[observation.name]["noise_psd_dbfs_hz"], abs=4)
    with pytest.raises(ClockNotLocked, match="G7UAK"):
        align(read_event([sigmf / "anthorn-20251207a" / "anthorn-20251207a.sigmf-collection"]))


@pytest.mark.alone
def test_locust_keeps_a_wide_budget_and_breaks_an_absurd_one(server, tmp_path: Path):
    locustfile = Path(__file__).parents[1] / "loadtest" / "locustfile.py"
    command = [sys.executable, "-m", "locust", "-f", str(locustfile), "HeimdallNetUser", "--headless", "-u", "1"]
    command += ["-t", "4s", "--only-summary", "--rate-scale", "2"]
    codes, shown = {}, {}
    for name, budget in (("wide", "5000"), ("absurd", "0.001")):
        report = tmp_path / f"{name}.json"
        extra = [
            "--host",
            server.grpc_url,
            "--budget-ms",
            f"heimdall_net={budget}",
            "--report-json",
            str(report),
            # So few seconds have too few requests for the others.
            "--figures",
            "p50_ms,throughput_hz",
        ]
        done = subprocess.run([*command, *extra], capture_output=True, text=True, timeout=120, check=False)
        codes[name], shown[name] = done.returncode, done.stdout
        assert report.is_file(), done.stderr
        assert "Traceback" not in done.stderr
    # A generator that shares two cores with the rest of the tests may be too slow to prove anything (3), and says so.
    for name, code, figure in (("wide", 0, "p50_ms .* pass"), ("absurd", 1, "p50_ms .* fail")):
        assert codes[name] == code or (codes[name] == 3 and "INVALID" in shown[name]), shown[name]
        assert re.search(figure, shown[name]), shown[name]
    run = Run.read(tmp_path / "wide.json")
    assert sum(m.failed for m in run.measurements) == 0
    # Whatever was sent is counted: a run that ends does not drop the answers it still waits for.
    assert sum(m.answered for m in run.measurements) == sum(m.sent for m in run.measurements) > 20


def test_locust_serves_its_web_page(server):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    locustfile = Path(__file__).parents[1] / "loadtest" / "locustfile.py"
    command = [sys.executable, "-m", "locust", "-f", str(locustfile), "--host", server.grpc_url]
    command += ["--web-host", "127.0.0.1", "--web-port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
                        assert page.status == 200
                        assert b"HeimdallNetUser" in page.read()
                    break
                except urllib.error.URLError:
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
        finally:
            process.terminate()
            process.wait(30)
