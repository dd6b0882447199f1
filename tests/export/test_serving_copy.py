"""The copy that a pod serves from: whole and verified, or an error that names what is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from rfserve.export import canary_requests, pbtxt
from rfserve.export.commands import fetch
from rfserve.export.errors import RepositoryError, VersionNotFound
from rfserve.export.manifest import FILE_NAME, Manifest
from rfserve.export.object_repository import ObjectRepository
from rfserve.export.repository import Repository, version_files
from rfserve.export.serving import Event
from rfserve.export.serving_copy import ServingCopy
from rfserve.export.spec import GRAPHS, MODELS, find

SPEC = find("mel_features")
HOME = SPEC.name


def publish(repository, content: bytes = b"graph", precision: str = "fp32", spec=SPEC) -> int:
    def fill(folder: Path):
        (folder / "model.onnx").write_bytes(content)
        files = version_files(folder)
        return lambda n: Manifest(model=spec.name, version=n, weights="none", files=files, precision=precision)

    return repository.publish(spec, fill).version


def promote(repository, version: int) -> None:
    event = Event(action="promote", version=version, targets=("cpu", "gpu"))
    repository.change_serving(SPEC, lambda state: state.with_event(event))


@pytest.fixture
def source(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "source")
    publish(repository)
    return repository


def copy_of(source, tmp_path: Path, **options) -> ServingCopy:
    return ServingCopy(source=source, folder=tmp_path / "copy", target="cpu", **options)


def versions(tmp_path: Path) -> list[int]:
    return Repository(tmp_path / "copy").versions(HOME)


def named(tmp_path: Path, target: str = "cpu") -> list[int]:
    text = (tmp_path / "copy" / HOME / "configs" / f"{target}.pbtxt").read_text()
    return list(pbtxt.parse(text).version_policy.specific.versions)


def test_copy_of_every_model_is_what_was_published(repository: Path, tmp_path: Path):
    done = fetch.main([str(tmp_path / "copy"), "--repository", str(repository), "--canaries", str(tmp_path / "asked")])
    assert done == 0
    for name, spec in MODELS.items():
        copied = tmp_path / "copy" / name
        assert Manifest.read(copied / "1").differences(copied / "1") == []
        assert (copied / "1" / FILE_NAME).read_bytes() == (repository / name / "1" / FILE_NAME).read_bytes()
        if name in GRAPHS:
            for tensor in spec.inputs:
                warm_up = Path("warmup") / tensor.name
                assert (copied / warm_up).read_bytes() == (repository / name / warm_up).read_bytes()
    index = json.loads((tmp_path / "asked" / canary_requests.INDEX).read_text())
    assert set(index["models"]) == set(MODELS)
    assert {c["model"] for c in index["canaries"]} == set(GRAPHS)


def asked(tmp_path: Path) -> tuple[list[str], list[str]]:
    """The models that have to be ready, and those that are sent a request."""
    index = json.loads((tmp_path / "asked" / canary_requests.INDEX).read_text())
    return index["models"], [c["model"] for c in index["canaries"]]


def test_server_has_to_answer_only_for_models_that_were_there_when_it_started(source, tmp_path):
    """Triton loads all models when it starts, and none that comes later: every pod would be unready."""

    def anybody() -> ServingCopy:
        # The copy before the start and those after it are made by two processes.
        return copy_of(source, tmp_path, canaries=tmp_path / "asked")

    anybody().update(anew=True)
    other = find("iq_features")
    publish(source, spec=other)
    assert anybody().update(anew=False) == ["iq_features/1 copied and verified"]
    assert Repository(tmp_path / "copy").versions("iq_features") == [1]
    assert asked(tmp_path) == ([HOME], [HOME])
    publish(source, b"two")
    assert anybody().update(anew=False) == [f"{HOME}/2 copied and verified"]
    assert asked(tmp_path) == ([HOME], [HOME])
    # As in a pod that starts.
    anybody().update(anew=True)
    assert asked(tmp_path) == (["iq_features", HOME], ["iq_features", HOME])


def test_server_need_not_answer_for_a_model_that_has_gone_and_come_back(source, tmp_path):
    publish(source, spec=find("iq_features"))
    copy = copy_of(source, tmp_path, canaries=tmp_path / "asked")
    copy.update(anew=True)
    (tmp_path / "source" / "iq_features").rename(tmp_path / "away")
    copy.update(anew=False)
    assert asked(tmp_path) == ([HOME], [HOME])
    (tmp_path / "away").rename(tmp_path / "source" / "iq_features")
    copy.update(anew=False)
    assert asked(tmp_path) == ([HOME], [HOME])


def test_follower_without_a_copy_before_it_asks_for_all(source, tmp_path):
    copy_of(source, tmp_path, canaries=tmp_path / "asked").update(anew=False)
    assert asked(tmp_path) == ([HOME], [HOME])


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_index_that_is_damaged_is_named_and_made_again_before_a_start(source, tmp_path, text):
    copy = copy_of(source, tmp_path, canaries=tmp_path / "asked")
    copy.update(anew=True)
    (tmp_path / "asked" / canary_requests.INDEX).write_text(text)
    with pytest.raises(RepositoryError, match=r"cannot read .*index\.json: got .*start the server anew"):
        copy.update(anew=False)
    copy.update(anew=True)
    assert asked(tmp_path) == ([HOME], [HOME])


def flip(version: Path) -> None:
    graph = version / "model.onnx"
    graph.write_bytes(bytes([graph.read_bytes()[0] ^ 1]) + graph.read_bytes()[1:])


def rename_model(version: Path) -> None:
    content = json.loads((version / FILE_NAME).read_text())
    (version / FILE_NAME).write_text(json.dumps(content | {"model": "heimdall_net"}))


DAMAGES = {
    "a byte flipped": (flip, "model.onnx changed"),
    "cut short": (lambda v: (v / "model.onnx").write_bytes(b"gra"), "model.onnx changed"),
    "a file missing": (lambda v: (v / "model.onnx").unlink(), "model.onnx is missing"),
    "a file too many": (lambda v: (v / "libevil.so").write_bytes(b""), "libevil.so is not in the manifest"),
    "a link out of it": (lambda v: (v / "more").symlink_to("/etc/hostname"), "more is not in the manifest"),
    "a damaged manifest": (lambda v: (v / FILE_NAME).write_text("{"), "is damaged"),
    "another model's manifest": (rename_model, "its manifest is of heimdall_net/1"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_nothing_stays_of_a_version_that_is_not_as_published(source, tmp_path, capsys, damage):
    spoil, words = DAMAGES[damage]
    spoil(tmp_path / "source" / HOME / "1")
    done = fetch.main([str(tmp_path / "copy"), "--repository", str(tmp_path / "source")])
    assert done == 1
    assert words in capsys.readouterr().err
    assert versions(tmp_path) == []
    assert not [f for f in (tmp_path / "copy").rglob("*") if f.is_file()]


def test_version_without_manifest_is_none(source, tmp_path, capsys):
    (tmp_path / "source" / HOME / "1" / FILE_NAME).unlink()
    assert fetch.main([str(tmp_path / "copy"), "--repository", str(tmp_path / "source")]) == 1
    assert "it has no manifest.json" in capsys.readouterr().err


def test_empty_repository_is_refused(tmp_path, capsys):
    (tmp_path / "source" / HOME).mkdir(parents=True)
    assert fetch.main([str(tmp_path / "copy"), "--repository", str(tmp_path / "source")]) == 1
    assert "holds no model with a version" in capsys.readouterr().err


def test_copy_that_changed_on_its_own_disk_is_made_again(source, tmp_path):
    copy = copy_of(source, tmp_path)
    copy.update(anew=True)
    flip(tmp_path / "copy" / HOME / "1")
    assert copy.update(anew=True) == [
        f"{HOME}/1 had changed on this disk; copied again",
        f"{HOME}/1 copied and verified",
    ]
    assert copy.update(anew=True) == []


def test_versions_that_a_release_or_a_rollback_needs_are_there_and_no_others(source, tmp_path):
    for content in (b"two", b"three", b"four"):
        publish(source, content)
    publish(source, b"five", precision="fp16")  # a GPU's
    promote(source, 2)
    promote(source, 3)
    copy = copy_of(source, tmp_path)
    copy.update(anew=True)
    assert versions(tmp_path) == [2, 3, 4]
    assert named(tmp_path) == [3]
    promote(source, 4)
    assert copy.update(anew=False) == [f"{HOME}/2 is not wanted any more"]
    assert named(tmp_path) == [4]


def test_disk_does_not_fill_with_versions_that_nobody_promotes(source, tmp_path):
    promote(source, 1)
    for number in range(2, 8):
        publish(source, str(number).encode())
    copy = copy_of(source, tmp_path)
    copy.update(anew=True)
    assert versions(tmp_path) == [1, 6, 7]
    publish(source, b"8")
    assert copy.update(anew=False) == [f"{HOME}/8 copied and verified", f"{HOME}/6 is not wanted any more"]
    assert versions(tmp_path) == [1, 7, 8]


def test_damaged_version_that_nobody_serves_is_left_out(source, tmp_path):
    publish(source, b"two")
    promote(source, 1)
    flip(tmp_path / "source" / HOME / "2")
    copy = copy_of(source, tmp_path)
    said = copy.update(anew=True)
    assert said[0] == f"{HOME}/1 copied and verified"
    assert [line.split(" in ")[0] for line in said[1:]] == ["left out: mel_features/2"]
    assert versions(tmp_path) == [1]
    # Not downloaded again each time.
    assert copy.update(anew=False) == []


def test_version_that_was_on_its_way_is_copied_when_it_is_there(source, tmp_path):
    """As `kubectl cp` brings it: the manifest first, and the graph bit by bit."""
    publish(source, b"graph of two")
    promote(source, 1)
    graph = tmp_path / "source" / HOME / "2" / "model.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole[:3])
    copy = copy_of(source, tmp_path)
    assert copy.update(anew=True)[1].startswith("left out: mel_features/2 in ")
    graph.write_bytes(whole[:7])
    assert copy.update(anew=False)[0].startswith("left out: mel_features/2 in ")
    graph.write_bytes(whole)
    assert copy.update(anew=False) == [f"{HOME}/2 copied and verified"]


def test_configuration_names_its_version_when_nobody_promoted_one(source, tmp_path):
    copy = copy_of(source, tmp_path)
    copy.update(anew=True)
    assert named(tmp_path) == [1]
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "copy").rglob("*") if f.is_file()}
    assert copy.update(anew=False) == []
    # Triton reloads what has another time.
    assert before == {f: f.stat().st_mtime_ns for f in before}


def test_pin_is_served_whatever_is_promoted(source, tmp_path):
    publish(source, b"two")
    promote(source, 1)
    copy_of(source, tmp_path, pins={HOME: 2}).update(anew=True)
    assert named(tmp_path) == [2]
    with pytest.raises(VersionNotFound, match="is not published"):
        copy_of(source, tmp_path, pins={HOME: 9}).update(anew=True)
    with pytest.raises(RepositoryError, match="pinned locate"):
        copy_of(source, tmp_path, pins={"locate": 1}).update(anew=True)


def test_ensemble_without_its_steps_is_refused(repository: Path, tmp_path: Path):
    copy = copy_of(Repository(repository), tmp_path, models=("locate_spectrogram", HOME))
    with pytest.raises(RepositoryError, match="runs localization_net, of which there is no copy"):
        copy.update(anew=True)


def test_follower_takes_what_is_published_and_outlives_a_repository_that_is_away(source, tmp_path):
    command = [sys.executable, "-m", "rfserve.export.commands.fetch", str(tmp_path / "copy")]
    command += ["--repository", str(tmp_path / "source"), "--follow-s", "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stderr
            assert process.stdout.readline() == f"{HOME}/1 copied and verified\n"
            (tmp_path / "source").rename(tmp_path / "away")
            assert "cannot follow: no model repository" in process.stderr.readline()
            (tmp_path / "away").rename(tmp_path / "source")
            publish(source, b"two")
            assert process.stdout.readline() == f"{HOME}/2 copied and verified\n"
        finally:
            process.kill()


def test_follower_that_is_the_first_process_ends_when_it_is_told_to(source, tmp_path):
    """As in a container, where the kernel keeps signals without a handler from it."""
    command = [sys.executable, "-m", "rfserve.export.commands.fetch", str(tmp_path / "copy")]
    command += ["--repository", str(tmp_path / "source"), "--follow-s", "0.05"]
    alone = ["unshare", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0:
        command = [*alone, *command]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == f"{HOME}/1 copied and verified\n"
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(children[0]) if command[0] == "unshare" else process.pid, signal.SIGTERM)
            assert process.wait(10) == fetch.TOLD_TO_END
        finally:
            process.kill()


def test_object_that_changed_in_the_store_is_refused(s3_endpoint, tmp_path):
    bucket = "rfserve-copies"
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    client.create_bucket(Bucket=bucket)
    location = f"s3://{s3_endpoint}/{bucket}/models"
    publish(ObjectRepository(location))
    command = ["--repository", location, "--canaries", str(tmp_path / "asked")]
    assert fetch.main([str(tmp_path / "copy"), *command]) == 0
    assert versions(tmp_path) == [1]
    assert named(tmp_path) == [1]
    client.put_object(Bucket=bucket, Key=f"models/{HOME}/1/model.onnx", Body=b"grapf")
    shutil.rmtree(tmp_path / "copy")
    assert fetch.main([str(tmp_path / "copy"), *command]) == 1
    assert versions(tmp_path) == []


def test_program_is_light():
    """The image it runs in has no torch, and a pod waits for its start."""
    code = "import sys, rfserve.export.commands.fetch; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "onnx", "onnxruntime", "timm", "mlflow", "lightning", "scipy"}
    assert not heavy & set(done.stdout.split())
