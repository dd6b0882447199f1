"""`rfserve-server release` before it meets a pod: what it is told, what it needs, and what it refuses."""

import signal
import subprocess
import sys

import pytest

from rfserve.release.errors import EXIT_CODES, NotEverywhere, NotReleased, NotRestored
from rfserve.server import cli
from rfserve.server.cli import main


def test_options_that_contradict_each_other_are_refused(capsys):
    for given, reason in (
        (["mel_features", "2"], "one of the arguments --pods --service is required"),
        (["mel_features", "2", "--pods", "a:1", "--service", "triton"], "not allowed with"),
        (["mel_features", "2", "--pods", "a:1", "--rollback"], "--rollback finds the version itself"),
        (["mel_features", "--pods", "a:1", "--shadow"], "--shadow needs the VERSION"),
        (["mel_features", "2", "--pods", "a:1", "--shadow", "--champion"], "releases nothing"),
    ):
        with pytest.raises(SystemExit) as left:
            main(["release", *given])
        assert left.value.code == 2
        assert reason in capsys.readouterr().err


def test_what_cannot_be_begun_is_refused_with_the_remedy(tmp_path, small_model, monkeypatch, capsys):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    where = ["--repository", str(small_model)]
    for given, reason in (
        (["mel_features", "1", "--pods", "a:1,a:1"], "expected each pod's HOST:PORT, once"),
        (["mel_features", "1", "--pods", "nowhere"], "expected host:port of its gRPC endpoint"),
        (["mel_features", "1", "--pods", "127.0.0.1:9", "--pod-timeout-s", "0"], "expected above 0"),
        (["mel_features", "1", "--service", "triton"], "this is no pod of a cluster; name the pods with --pods"),
        (["mel_features", "1", "--pods", "127.0.0.1:9", "--admin-key-file", str(tmp_path / "no")], "cannot read"),
        (["mel_features", "1", "--pods", "127.0.0.1:9", "--private-key", "x"], "expected both"),
        (["mel_features", "1", "--pods", "127.0.0.1:9", "--shadow"], "no versions with positions of their own"),
        (["mel_features", "--pods", "127.0.0.1:9", "--rollback"], "cannot be rolled back"),
        (["no_such_model", "1", "--pods", "127.0.0.1:9"], "no_such_model"),
        (["mel_features", "1", "--pods", "127.0.0.1:9"], "is it running?"),
    ):
        assert main(["release", *given, *where]) == 1, given
        said = capsys.readouterr().err
        assert reason in said
        assert "nothing was changed" in said or "the alias did not move, and every pod serves what it served" in said


def test_signals_are_what_they_were_afterwards(small_model, capsys):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert main(["release", "mel_features", "9", "--pods", "127.0.0.1:9", "--repository", str(small_model)]) == 1
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert "mel_features/9 is not published" in capsys.readouterr().err


def test_help_tells_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        main(["release", "--help"])
    out = capsys.readouterr().out
    for code, meaning in EXIT_CODES:
        assert f"  {code}  {meaning}" in out
    assert [e.exit_code for e in (NotReleased, NotRestored, NotEverywhere)] == [1, 3, 4]


def test_release_needs_no_torch_and_the_server_none_of_what_a_release_needs():
    program = (
        "import sys; import {0}; print(sorted(m for m in "
        "('torch', 'timm', 'onnxruntime', 'tritonclient', 'mlflow', 'boto3') if m in sys.modules))"
    )
    found = [
        subprocess.run([sys.executable, "-c", program.format(name)], capture_output=True, text=True, check=True).stdout
        for name in ("rfserve.release.command", "rfserve.server.cli")
    ]
    assert found == ["['onnxruntime', 'tritonclient']\n", "[]\n"]


def test_missing_package_is_named_with_what_installs_it(monkeypatch, capsys):
    def missing(name: str):
        raise ModuleNotFoundError("No module named 'onnx'", name="onnx")

    monkeypatch.setattr(cli, "import_module", missing)
    assert main(["release", "mel_features", "2", "--pods", "a:1"]) == 1
    assert "release needs onnx, which is not installed: pip install 'rfserve[release]'" in capsys.readouterr().err
