"""A repository with broken model files: the others serve, and `rfserve-server status` says what is wrong with which."""

import json
import shutil
import subprocess
import sys

import pytest

from rfserve.server import cli, model_table
from rfserve.server.errors import ModelLoadError
from rfserve.server.http_api import HttpApi
from rfserve.server.options import ServerOptions
from rfserve.server.process import TritonServer
from rfserve.server.status import read, table


@pytest.mark.server
def test_models_beside_broken_ones_serve_and_the_reasons_are_shown(part_of, run, call, capsys):
    repository = part_of("mel_features", "heimdall_net", "iq_features", "localization_net", "locate")
    truncated = repository / "heimdall_net" / "1" / "model.onnx"
    truncated.write_bytes(truncated.read_bytes()[:5000])
    shutil.copy(repository / "mel_features" / "1" / "model.onnx", repository / "localization_net" / "1" / "model.onnx")
    (repository / "iq_features" / "1" / "model.onnx").write_text("This is a shopping list.")

    running = run(repository)
    assert "not served: heimdall_net: " in running.errors()
    assert "not served: locate: ensemble 'locate' depends on 'heimdall_net'" in running.errors()

    assert cli.main(["status", "--url", running.http]) == 1
    shown = capsys.readouterr()
    lines = {line.split()[0]: line for line in shown.out.splitlines()}
    assert lines["mel_features"].split()[1:4] == ["1", "READY", "ok"]
    assert "Protobuf parsing failed" in lines["heimdall_net"]
    assert "the graph and config.pbtxt differ: inputs: config ['mel_spectrogram'], graph ['raw_iq']" in shown.out
    assert "At:" not in shown.out
    assert shown.err == "not well: heimdall_net, iq_features, localization_net\n"

    assert cli.main(["status", "--url", running.http, "--json"]) == 1
    found = {m["name"]: m for m in json.loads(capsys.readouterr().out)}
    assert found["mel_features"]["canary"]["outcome"] == "ok"
    assert found["mel_features"]["instances"] == 2
    assert found["mel_features"]["requests"] > 0
    assert (found["heimdall_net"]["canary"], found["heimdall_net"]["well"]) == (None, False)
    assert found["locate"]["state"] == model_table.NOT_LOADED

    (caller,) = call(1, running.grpc, "mel_features", times=3)
    caller.join(30)
    assert len(caller.answers) == 3

    with pytest.raises(ModelLoadError, match="4 of 5 models did not load"):
        TritonServer(ServerOptions(repository=repository, grpc_port=0, http_port=0, metrics_port=0)).start()


@pytest.mark.server
def test_every_model_of_a_sound_server_is_well_ensembles_too(server):
    models = read(server.http)
    assert [m.row.name for m in models] == sorted(server.models)
    assert all(m.well for m in models), table(models)
    command = [sys.executable, "-m", "rfserve.server.cli", "status", "--url", server.http_url]
    assert subprocess.run(command, check=False, timeout=60, stdout=subprocess.PIPE).returncode == 0


def test_status_of_no_server_is_an_error(capsys):
    assert cli.main(["status", "--url", "http://127.0.0.1:9", "--timeout-s", "1"]) == 1
    assert "does not list its models: no answer" in capsys.readouterr().err
    assert cli.main(["status", "--url", "127.0.0.1:9"]) == 1
    assert "expected an http:// address" in capsys.readouterr().err
    assert read is not None
    assert model_table.read(HttpApi(url="http://127.0.0.1:9", timeout_s=1)) == ()


def test_rows_speak_for_the_served_version_and_the_newest_of_one_that_is_not():
    index = [
        {"name": "a", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"},
        {"name": "a", "version": "2", "state": "READY"},
        {"name": "b", "version": "2", "state": "UNAVAILABLE", "reason": "Internal: no\n\nAt:\n  file.py(3): load\n"},
        {"name": "b", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"},
        {"name": "c"},
    ]
    counts = [{"name": "a", "inference_stats": {"success": {"count": 5}, "fail": {"count": 2}}}]
    a, b, c = model_table.rows(index, counts)
    assert (a.state, a.versions, a.reason, a.requests, a.failures) == ("READY", ("2",), "", 7, 2)
    assert (b.state, b.versions, b.reason) == ("UNAVAILABLE", (), "Internal: no")
    assert c.state == model_table.NOT_LOADED
