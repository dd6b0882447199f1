import json

import grpc
import numpy as np
import pytest

from rfserve.clients.cli import main
from rfserve.clients.geodesy import distance_m
from rfserve.clients.recording import read_event
from rfserve.export.spec import example, find


@pytest.fixture
def run(capsys):
    """Run a command; its exit code, standard output and standard error."""

    def call(*arguments):
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as exit_:
            code = exit_.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_locate_prints_the_fix(run, serve, answer, collection):
    code, out, err = run("locate", collection, "--url", serve(answer()).url, "--truth", "45.1,7.61")
    assert (code, err) == (0, "")
    assert "45.100" in out
    assert "7.600" in out
    assert "synthetic_R1, synthetic_R2, synthetic_R3, synthetic_R4" in out
    assert "locate version 3" in out
    assert "73.4 m north, 49.0 m east at 95%" in out
    assert "error      785 m" in out


def test_locate_prints_json(run, serve, answer, collection):
    code, out, _ = run("locate", collection, "--url", serve(answer()).url, "--output", "json")
    fix = json.loads(out)
    assert code == 0
    assert (fix["latitude_deg"], fix["model_version"]) == (pytest.approx(45.1, abs=2e-6), "3")


def test_locate_prints_geojson_at_the_confidence(run, serve, answer, collection):
    url = serve(answer()).url
    tops = []
    for confidence in ("0.5", "0.99"):
        _, out, _ = run("locate", collection, "--url", url, "--output", "geojson", "--confidence", confidence)
        point, ellipse = json.loads(out)["features"]
        assert point["geometry"]["type"] == "Point"
        tops.append(max(y for _, y in ellipse["geometry"]["coordinates"][0]))
    assert tops[0] < tops[1]


def test_locate_writes_the_map(run, serve, answer, collection, tmp_path):
    path = tmp_path / "map.html"
    code, _, err = run("locate", collection, "--url", serve(answer()).url, "--map", path, "--note", "untrained weights")
    assert code == 0
    assert str(path) in err
    page = path.read_text(encoding="utf-8")
    assert "synthetic_R3" in page
    assert "untrained weights" in page


def test_locate_takes_several_recordings_and_a_later_start(run, serve, answer, collection):
    server = serve(answer())
    files = [collection.parent / f"synthetic_R{i}.sigmf-meta" for i in (3, 1)]
    code, _, _ = run("locate", *files, "--url", server.url, "--start-s", "0.01", "--model", "locate_pro")
    assert code == 0
    (sent,) = server.requests
    assert sent.model_name == "locate_pro"
    raw_iq = np.frombuffer(sent.raw_input_contents[0], np.float32).reshape(tuple(sent.inputs[0].shape))
    expected = read_event(files)[0].observe(10_000, 6384).iq
    np.testing.assert_array_equal(raw_iq[0, 0, 0], expected.real)
    np.testing.assert_array_equal(raw_iq[0, 0, 1], expected.imag)


def test_locate_spectrogram_takes_one_receiver(run, serve, answer, collection):
    url = serve(answer()).url
    one = collection.parent / "synthetic_R1"
    assert run("locate", one, "--url", url, "--model", "locate_spectrogram")[0] == 0
    code, _, err = run("locate", collection, "--url", url, "--model", "locate_spectrogram")
    assert code == 1
    assert err.startswith("error: locate_spectrogram takes one receiver, got 4")


def test_infer_prints_or_writes_the_outputs(run, serve, answer, tmp_path):
    arrays = tmp_path / "in.npz"
    np.savez(arrays, **example(find("heimdall_net")))
    url = serve(answer()).url
    code, out, _ = run("infer", "heimdall_net", arrays, "--url", url)
    assert code == 0
    assert json.loads(out)["outputs"]["uncertainties"] == [[30.0, 20.0]]
    # NumPy would add its own suffix to another name.
    path = tmp_path / "out.data"
    assert run("infer", "heimdall_net", arrays, "--url", url, "--output-file", path)[0] == 0
    with np.load(path) as written:
        np.testing.assert_array_equal(written["uncertainties"], [[30, 20]])


@pytest.mark.parametrize("content", ["text", "npy", "cut", "empty", "none"])
def test_infer_refuses_what_is_no_npz(run, tmp_path, content):
    path = tmp_path / "in.npz"
    if content == "npy":
        with path.open("wb") as file:
            np.save(file, np.ones(3))
    elif content == "cut":
        np.savez(path, a=np.ones(1000))
        path.write_bytes(path.read_bytes()[:500])
    elif content != "none":
        path.write_text("" if content == "empty" else "nothing")
    code, _, err = run("infer", "heimdall_net", path)
    assert code == 1
    assert err.startswith("error: cannot read")


def test_synthesize_writes_an_event_and_prints_its_collection(run, tmp_path):
    code, out, _ = run("synthesize", tmp_path / "event", "--receivers", "3", "--seed", "9")
    assert code == 0
    assert len(read_event([tmp_path / "event" / out.strip().rsplit("/", 1)[-1]])) == 3


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["locate", "nowhere.sigmf-collection"], "cannot read nowhere.sigmf-collection"),
        (["locate", "nowhere"], "no nowhere.sigmf-meta"),
        (["synthesize", "x", "--receivers", "11"], "expected 1 to 10"),
        (["synthesize", "x", "--seed", "-1"], "expected 0 or more"),
        (["infer", "no_such_model", "nowhere.npz"], "cannot read nowhere.npz"),
    ],
)
def test_command_says_in_one_line_why_it_failed(run, tmp_path, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert text in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--url", "http://127.0.0.1:8000"],
        ["--timeout-s", "0"],
        ["--start-s", "nan"],
        ["--start-s", "5"],
        ["--root-certificates", "nowhere.pem"],
    ],
)
def test_locate_refuses_options_that_cannot_be(run, collection, options):
    code, _, err = run("locate", collection, *options)
    assert code == 1
    assert err.startswith("error: ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["locate"],
        ["locate", "x", "--model", "heimdall_net"],
        ["locate", "x", "--confidence", "1"],
        ["locate", "x", "--confidence", "nan"],
        ["locate", "x", "--truth", "91,7"],
        ["locate", "x", "--truth", "here"],
    ],
)
def test_usage_errors_exit_with_2(run, arguments):
    code, _, err = run(*arguments)
    assert code == 2
    assert "usage:" in err


def test_locate_fails_with_the_servers_reason(run, serve, refuse, collection):
    server = serve(refuse(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size"))
    code, out, err = run("locate", collection, "--url", server.url)
    assert (code, out) == (1, "")
    assert "Exceeds maximum queue size; send less" in err


def test_locate_fails_when_the_map_cannot_be_written(run, serve, answer, collection, tmp_path):
    code, _, err = run("locate", collection, "--url", serve(answer()).url, "--map", tmp_path / "no" / "map.html")
    assert code == 1
    assert "cannot write the map" in err


@pytest.mark.parametrize(
    ("a", "b", "metres"),
    [((0, 0), (0, 1), 111_195), ((0, 0), (0, 180), 20_015_115), ((50.0152, 9.0112), (51.466044, 11.977189), 264_320)],
)
def test_distance_is_that_of_the_great_circle(a, b, metres):
    assert distance_m(a, b) == pytest.approx(metres, rel=3e-3)
