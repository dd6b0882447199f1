"""Versions appear whole or not at all, and never change."""

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rfserve.export.errors import ExportError, RepositoryError, VersionExists
from rfserve.export.manifest import Manifest
from rfserve.export.model_repository import configuration_files
from rfserve.export.repository import Repository, version_files
from rfserve.export.spec import MODELS, find

SPEC = find("mel_features")


def fill(content: bytes = b"graph") -> Callable[[Path], Callable[[int], Manifest]]:
    def write(folder: Path) -> Callable[[int], Manifest]:
        (folder / "model.onnx").write_bytes(content)
        files = version_files(folder)
        return lambda number: Manifest(model=SPEC.name, version=number, weights="none", files=files)

    return write


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.name != ".lock"}


def test_published_version_is_whole_with_its_configuration(tmp_path: Path):
    repository = Repository(tmp_path)
    manifest = repository.publish(SPEC, fill())
    assert manifest.version == 1
    assert set(snapshot(tmp_path)) == {
        "mel_features/1/manifest.json",
        "mel_features/1/model.onnx",
        "mel_features/config.pbtxt",
        "mel_features/configs/cpu.pbtxt",
        "mel_features/configs/gpu-tensorrt.pbtxt",
        "mel_features/configs/gpu.pbtxt",
        "mel_features/serving.json",
        "mel_features/warmup/raw_iq",
    }
    assert repository.manifest(SPEC.name, 1) == manifest
    assert manifest.differences(tmp_path / SPEC.name / "1") == []


def test_next_version_follows_the_greatest(tmp_path: Path):
    repository = Repository(tmp_path)
    assert [repository.publish(SPEC, fill(), v).version for v in (None, 7, None)] == [1, 7, 8]
    assert repository.versions(SPEC.name) == [1, 7, 8]


def test_published_version_is_immutable(tmp_path: Path):
    repository = Repository(tmp_path)
    repository.publish(SPEC, fill(), 3)
    before = snapshot(tmp_path)
    with pytest.raises(VersionExists, match=r"mel_features/3 is published already.*to get 4"):
        repository.publish(SPEC, fill(b"other"), 3)
    assert snapshot(tmp_path) == before


def test_version_below_one_is_refused(tmp_path: Path):
    with pytest.raises(RepositoryError, match="version 0; expected 1"):
        Repository(tmp_path).publish(SPEC, fill(), 0)


def failing_fill(folder: Path) -> Callable[[int], Manifest]:
    (folder / "model.onnx").write_bytes(b"half")
    raise ExportError("the gate said no")


def test_failure_while_filling_leaves_nothing(tmp_path: Path):
    with pytest.raises(ExportError, match="the gate said no"):
        Repository(tmp_path / "new").publish(SPEC, failing_fill)
    assert not (tmp_path / "new" / SPEC.name).exists()


def failing_at(call: int, function: Callable[..., object]) -> Callable[..., object]:
    """`function`, but its n-th call finds the disk full."""
    calls = iter(range(1, 1000))

    def counted(*arguments: object) -> object:
        if next(calls) == call:
            raise OSError(28, "No space left on device")
        return function(*arguments)

    return counted


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize(("owner", "function"), [(os, "fsync"), (Path, "replace"), (Path, "rename")])
def test_failure_at_any_step_leaves_what_was_there_or_says_what_is_done(owner, function, fresh, tmp_path, monkeypatch):
    published_at = 0
    for call in range(1, 100):
        folder = tmp_path / str(call)
        repository = Repository(folder)
        if not fresh:
            repository.publish(SPEC, fill())
            (folder / SPEC.name / "config.pbtxt").write_text("# an older spec's\n")
        before = snapshot(folder)
        with monkeypatch.context() as patch:
            patch.setattr(owner, function, failing_at(call, getattr(owner, function)))
            try:
                repository.publish(SPEC, fill(b"new"))
                break
            except RepositoryError as error:
                said = str(error)
        assert "No space left" in said
        assert not [f for f in folder.rglob("*") if f.name.startswith((".incoming", ".coming"))]
        if "is published" in said:
            published_at = published_at or call
            repository.write_configuration(SPEC)
            assert max(repository.serving(SPEC.name).noted("publish")) == max(repository.versions(SPEC.name))
        else:
            assert said.endswith("the repository is as it was")
            assert not published_at
            assert snapshot(folder) == before
            assert fresh is not folder.exists()
    assert call > 1
    assert published_at or function == "rename"


def test_read_only_folder_is_refused_with_its_reason(tmp_path: Path):
    if os.geteuid() == 0:
        target = Path("/proc/rfserve")  # root may write anywhere else
    else:
        target = tmp_path / "locked"
        target.mkdir(mode=0o500)
    with pytest.raises(RepositoryError, match="cannot write to the repository"):
        Repository(target).publish(SPEC, fill())


def test_abandoned_staging_folder_is_cleared_by_the_next_publication(tmp_path: Path):
    repository = Repository(tmp_path)
    repository.publish(SPEC, fill())
    abandoned = tmp_path / SPEC.name / ".incoming-999999999"
    (abandoned / "files").mkdir(parents=True)
    (abandoned / "files" / "model.onnx").write_bytes(b"half")
    (abandoned / ".lock").touch()
    repository.publish(SPEC, fill())
    assert not abandoned.exists()
    assert repository.versions(SPEC.name) == [1, 2]


def test_staging_folder_of_a_living_publisher_is_left_alone(tmp_path: Path):
    repository = Repository(tmp_path)

    def fill_slowly(folder: Path) -> Callable[[int], Manifest]:
        repository.publish(SPEC, fill(b"another, meanwhile"))
        return fill()(folder)

    assert repository.publish(SPEC, fill_slowly).version == 2
    assert repository.versions(SPEC.name) == [1, 2]


def publish_some(folder: str) -> None:
    for _ in range(5):
        Repository(Path(folder)).publish(SPEC, fill(os.urandom(1000)))


def test_two_publishers_at_once_each_get_their_versions(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=publish_some, args=(str(tmp_path),)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [w.exitcode for w in workers] == [0, 0]
    repository = Repository(tmp_path)
    assert repository.versions(SPEC.name) == list(range(1, 11))
    for version in repository.versions(SPEC.name):
        folder = tmp_path / SPEC.name / str(version)
        assert repository.manifest(SPEC.name, version).differences(folder) == []


def test_manifest_says_what_was_published(tmp_path: Path):
    Repository(tmp_path).publish(SPEC, fill())
    content = json.loads((tmp_path / SPEC.name / "1" / "manifest.json").read_text())
    assert content["tools"].keys() == {"rfserve", "torch", "timm", "onnx", "onnxruntime-gpu", "numpy"}
    assert content["files"]["model.onnx"]["bytes"] == len(b"graph")


@pytest.mark.parametrize("damage", ["{", "[]", '{"model": "x"}'])
def test_damaged_manifest_is_refused(damage: str, tmp_path: Path):
    repository = Repository(tmp_path)
    repository.publish(SPEC, fill())
    (tmp_path / SPEC.name / "1" / "manifest.json").write_text(damage)
    with pytest.raises(RepositoryError, match="damaged"):
        repository.manifest(SPEC.name, 1)


def test_bytes_that_are_no_text_are_damage(tmp_path: Path):
    repository = Repository(tmp_path)
    repository.publish(SPEC, fill())
    home = tmp_path / SPEC.name
    # In a string that nothing else is compared with.
    for name, whole in ((home / "1" / "manifest.json", b'"none"'), (home / "serving.json", b'"fp32"')):
        content = name.read_bytes()
        assert whole in content
        name.write_bytes(content.replace(whole, whole[:1] + b"\xff" + whole[2:]))
    with pytest.raises(RepositoryError, match=r"1/manifest\.json is damaged .*bytes that are no UTF-8"):
        repository.manifest(SPEC.name, 1)
    with pytest.raises(RepositoryError, match=r"serving\.json is damaged .*bytes that are no UTF-8"):
        repository.serving(SPEC.name)
    config = home / "config.pbtxt"
    config.write_bytes(config.read_bytes() + b"# \xff")
    assert str(repository.read_configuration(SPEC)["config.pbtxt"]).endswith("# \ufffd")


def test_committed_configuration_is_what_the_specs_say():
    folder = Path(__file__).parents[2] / "model_repository"
    for name, spec in MODELS.items():
        for file, text in configuration_files(spec).items():
            assert (folder / name / file).read_text() == text, f"run `rfserve-export configure`: {name}/{file}"
    assert {f.name for f in folder.iterdir() if f.is_dir()} == set(MODELS)
