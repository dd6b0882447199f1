"""A real tritonserver: ready when its models are, clear when they cannot be, gone when it is stopped."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rfserve.server.binary import ALLOCATOR, require_numpy
from rfserve.server.errors import BinaryNotFound, ModelLoadError, PortBusy, RepositoryError, ServerError
from rfserve.server.options import ServerOptions
from rfserve.server.process import TritonServer

FREE = {"grpc_port": 0, "http_port": 0, "metrics_port": 0}


@pytest.fixture
def small(repository: Path, tmp_path: Path) -> Path:
    """A copy of one small model, to spoil."""
    shutil.copytree(repository / "mel_features", tmp_path / "repository" / "mel_features")
    return tmp_path / "repository"


def group_members(leader: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getpgid(int(entry.name)) == leader and "State:\tZ" not in (entry / "status").read_text():
                    found.append(int(entry.name))
            except (ProcessLookupError, FileNotFoundError):
                continue
    return found


@pytest.mark.server
def test_server_is_ready_when_every_model_is_and_leaves_nothing_behind(small: Path):
    with TritonServer(ServerOptions(repository=small, **FREE)) as server:
        leader = server.pid
        assert server.http.model_ready("mel_features")
        assert not server.http.model_ready("heimdall_net")
        assert server.memory_bytes() > 50e6
        assert len(group_members(leader)) > 1
        ports = {
            int(u.rpartition(":")[2].partition("/")[0]) for u in (server.grpc_url, server.http_url, server.metrics_url)
        }
        assert listening_addresses(ports) == {"127.0.0.1"}
        # Or each load starts a process more, only to ask what nobody knows.
        assert re.search(r"\| strict_model_config +\| 1 ", server.log())
    assert group_members(leader) == []


@pytest.mark.server
def test_server_and_stubs_return_large_blocks_of_memory(small: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1234567")
    with TritonServer(ServerOptions(repository=small, **FREE)) as server:
        members = group_members(server.pid)
        assert len(members) > 1
        for pid in members:
            entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
            expected = ALLOCATOR | {"MALLOC_TRIM_THRESHOLD_": "1234567"}
            assert {f"{name}={value}" for name, value in expected.items()} <= set(entries)


def listening_addresses(ports: set[int]) -> set[str]:
    found = set()
    for line in [
        *Path("/proc/net/tcp").read_text().splitlines()[1:],
        *Path("/proc/net/tcp6").read_text().splitlines()[1:],
    ]:
        fields = line.split()
        address, port = fields[1].split(":")
        if fields[3] == "0A" and int(port, 16) in ports:
            # gRPC listens on the IPv4 address through an IPv6 socket: the last word is the address.
            found.add(socket.inet_ntoa(bytes.fromhex(address[-8:])[::-1]))
    return found


def damage_graph(model: Path) -> None:
    (model / "1" / "model.onnx").write_bytes(b"nothing")


def damage_config(model: Path) -> None:
    file = model / "configs" / "cpu.pbtxt"
    file.write_text(file.read_text().replace('name: "mel_spectrogram"', 'name: "mels"'))


@pytest.mark.server
@pytest.mark.parametrize(
    ("damage", "reason"),
    [(damage_graph, "mel_features: .*model.onnx"), (damage_config, "the graph and config.pbtxt differ")],
)
def test_model_that_cannot_load_is_named_with_its_reason(small: Path, damage, reason):
    damage(small / "mel_features")
    with pytest.raises(ModelLoadError, match=reason):
        TritonServer(ServerOptions(repository=small, **FREE)).start()


@pytest.mark.server
def test_command_serves_until_it_is_told_to_stop(small: Path):
    command = [sys.executable, "-m", "rfserve.server.cli", "run", "--repository", str(small)]
    command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        said = next(line for line in lines if line.startswith("ready: gRPC 127.0.0.1:"))
        port = int(said.split()[2].rpartition(":")[2].rstrip(","))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return
        time.sleep(0.1)
    pytest.fail("the port still answers")


@pytest.mark.server
def test_exec_gives_the_command_an_address_and_takes_its_exit_code(small: Path):
    program = "import os, sys; sys.exit(7 if ':' in os.environ['RFSERVE_URL'] else 1)"
    command = [sys.executable, "-m", "rfserve.server.cli", "exec", "--repository", str(small), "--grpc-port", "0"]
    command += ["--http-port", "0", "--metrics-port", "0", "--", sys.executable, "-c", program]
    assert subprocess.run(command, check=False, timeout=120).returncode == 7


def test_busy_port_is_named(small: Path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(PortBusy, match=f"gRPC port 127.0.0.1:{port}.*--grpc-port"):
            ServerOptions(repository=small, grpc_port=port).ports()


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (shutil.rmtree, {}, "no model repository"),
        (lambda r: shutil.rmtree(r / "mel_features"), {}, "holds no model"),
        (lambda r: shutil.rmtree(r / "mel_features" / "1"), {}, "rfserve-export write mel_features"),
        (lambda r: shutil.rmtree(r / "mel_features" / "configs"), {"config": "gpu"}, "no configs/gpu.pbtxt"),
        (
            lambda r: (r / "mel_features" / "configs" / "gpu-tensorrt.pbtxt").unlink(),
            {"config": "gpu-tensorrt"},
            "no configs/gpu-tensorrt.pbtxt",
        ),
        (lambda _: None, {"models": ("heimdall_net",)}, "heimdall_net is not in it"),
    ],
)
def test_repository_that_cannot_be_served_is_refused_before_anything_starts(small: Path, spoil, options, message):
    spoil(small)
    with pytest.raises(RepositoryError, match=message):
        TritonServer(ServerOptions(repository=small, **FREE, **options))


def test_numpy_that_the_pip_server_does_not_work_with_is_refused():
    require_numpy("1.26.4")
    with pytest.raises(BinaryNotFound, match=r"needs numpy 1\.x, got 2\.1\.0"):
        require_numpy("2.1.0")


def test_unknown_configuration_is_refused(tmp_path: Path):
    with pytest.raises(ServerError, match="'tpu'; expected one of cpu, gpu, gpu-tensorrt"):
        ServerOptions(repository=tmp_path, config="tpu")
