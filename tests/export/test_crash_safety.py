"""Kill -9 at every step, a full disk, folders that may not be written, and writers at the same time."""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from rfserve.export import release, verification
from rfserve.export.errors import ExportError, ReleaseError, RepositoryError, VersionNotFound
from rfserve.export.manifest import Manifest
from rfserve.export.publication import Source, publish
from rfserve.export.repository import Repository, version_files
from rfserve.export.serving import Event
from rfserve.export.spec import find

SPEC = find("mel_features")
NOBODY = 65534
CASES = ("publish first", "publish", "promote", "rollback", "retire", "configure")


@pytest.fixture(scope="module")
def graph_file(small_model: Path) -> Path:
    return small_model / SPEC.name / "1" / "model.onnx"


@pytest.fixture(scope="module")
def graph(graph_file: Path) -> bytes:
    return graph_file.read_bytes()


def publish_bytes(repository: Repository, content: bytes) -> Manifest:
    def fill(folder: Path) -> Callable[[int], Manifest]:
        (folder / "model.onnx").write_bytes(content)
        files = version_files(folder)
        return lambda number: Manifest(model=SPEC.name, version=number, weights="none", opset=SPEC.opset, files=files)

    return repository.publish(SPEC, fill)


def promote(repository: Repository, version: int) -> None:
    event = Event(action="promote", version=version, targets=("cpu", "gpu"))
    repository.change_serving(SPEC, lambda state: state.with_event(event))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.name != ".lock"}


@pytest.fixture(scope="module")
def steps(graph_file: Path) -> dict[str, int | str]:
    script = Path(__file__).with_name("crash_steps.py")
    # Thousands of syncs are waited for, and kill -9 shows nothing of them: memory will do.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="rfserve-test-", dir=memory if memory.is_dir() else None) as folder:
        command = [sys.executable, str(script), folder, str(graph_file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, int | str] = json.loads(done.stdout)
    print("\nkilled at every step: " + ", ".join(f"{name} {count}" for name, count in found.items()))
    return found


@pytest.mark.parametrize("case", CASES)
def test_kill_at_every_step_leaves_whole_versions_and_a_repository_that_goes_on(steps, case):
    assert set(steps) == set(CASES)
    assert isinstance(steps[case], int), steps[case]
    assert steps[case] > 10


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, timeout=30, check=False)
    except OSError as error:
        pytest.skip(f"cannot mount a small disk: {error}")
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], timeout=30, check=True)


def leave_free(disk: Path, blocks: int) -> None:
    """Fill the disk but for some blocks."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    state = os.statvfs(disk)
    ballast.write_bytes(bytes((state.f_bfree - blocks) * state.f_bsize))
    assert os.statvfs(disk).f_bfree == blocks


def refusal(action: Callable[[], object]) -> str:
    """What a full disk makes of an action; empty when there was room."""
    try:
        action()
    except RepositoryError as error:
        text = str(error)
    else:
        return ""
    assert "No space left on device" in text
    return text


def test_full_disk_leaves_what_was_there_and_says_so(disk: Path, graph: bytes):
    repository = Repository(disk / "repository")
    publish_bytes(repository, graph)
    publish_bytes(repository, graph)
    promote(repository, 1)
    before = snapshot(repository.folder)
    for blocks in range(200):
        leave_free(disk, blocks)
        said = refusal(lambda: publish_bytes(repository, graph))
        if "the repository is as it was" not in said:
            break
        assert snapshot(repository.folder) == before
        assert not list(repository.folder.rglob(".incoming*"))
    assert blocks > len(graph) // 4096
    # With a block more, there is room for the version and not yet for the note of it.
    assert "mel_features/3 is published, but its history and configuration could not be written" in said
    assert "`rfserve-export configure` finishes the job" in said
    assert verification.problems(repository, SPEC.name) == []
    leave_free(disk, 20)
    repository.write_configuration(SPEC)
    assert repository.versions(SPEC.name) == [1, 2, 3]
    assert repository.serving(SPEC.name).noted("publish") == {1, 2, 3}


@pytest.mark.parametrize("change", [lambda r: promote(r, 2), lambda r: r.write_configuration(SPEC)])
def test_full_disk_leaves_what_is_served(disk: Path, graph: bytes, change):
    repository = Repository(disk / "repository")
    publish_bytes(repository, graph)
    publish_bytes(repository, graph)
    promote(repository, 1)
    (repository.folder / SPEC.name / "config.pbtxt").write_text("# an older spec's\n")
    before = snapshot(repository.folder)
    for blocks in range(20):
        leave_free(disk, blocks)
        said = refusal(lambda: change(repository))
        if not said:
            break
        assert said.endswith("the repository is as it was")
        assert snapshot(repository.folder) == before
    assert blocks
    assert verification.problems(repository, SPEC.name) == []


def test_full_disk_is_no_hindrance_to_retiring_a_version(disk: Path, graph: bytes):
    repository = Repository(disk / "repository")
    for _ in range(3):
        publish_bytes(repository, graph)
    promote(repository, 1)
    leave_free(disk, 0)
    release.retire(repository, SPEC, 2)
    assert repository.versions(SPEC.name) == [1, 3]
    assert repository.serving(SPEC.name).events[-1].action == "retire"
    assert os.statvfs(disk).f_bfree * 4096 > 0.9 * len(graph)


def test_full_disk_during_an_export_is_told_from_a_failed_export(disk: Path):
    repository = Repository(disk / "repository")
    leave_free(disk, 10)
    with pytest.raises(ExportError, match="No space left on device"):
        publish(SPEC, repository, Source(), version=None, report=lambda _: None)
    assert not repository.folder.exists()


def test_read_only_file_system_is_named(disk: Path, graph: bytes):
    repository = Repository(disk / "repository")
    publish_bytes(repository, graph)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], timeout=30, check=True)
    for change in (lambda: publish_bytes(repository, graph), lambda: promote(repository, 1)):
        with pytest.raises(RepositoryError, match=f"{disk}/repository: .*Read-only file system"):
            change()
    assert verification.problems(repository, SPEC.name) == []


def as_nobody(action: Callable[[], object]) -> str:
    """What `action` raises for a user without rights, as type and text."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            try:
                text = f"returned {action()}"
            except ExportError as error:
                text = f"{type(error).__name__}: {error}"
            except BaseException:
                text = traceback.format_exc()
            os.write(writer, text.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    return text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without rights")
def test_folder_that_may_not_be_written_is_named_and_can_still_be_read(graph: bytes):
    # Not below pytest's folder, which nobody else may even enter.
    with tempfile.TemporaryDirectory(prefix="rfserve-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        repository = Repository(folder / "repository")
        for _ in range(2):
            publish_bytes(repository, graph)
        promote(repository, 1)
        before = snapshot(folder)
        for change in (
            lambda: publish_bytes(repository, graph),
            lambda: release.promote(repository, SPEC, 2),
            lambda: release.retire(repository, SPEC, 2),
            lambda: repository.write_configuration(SPEC),
            lambda: publish_bytes(Repository(folder / "another"), graph),
        ):
            said = as_nobody(change)
            assert said.startswith("RepositoryError: mel_features: cannot write to the repository"), said
            assert "Permission denied" in said
            assert name in said
            assert snapshot(folder) == before
        assert as_nobody(lambda: verification.problems(repository, SPEC.name)) == "returned []"


def publish_several(folder: str) -> None:
    for number in range(8):
        publish_bytes(Repository(Path(folder)), f"graph {number}".encode() * 1000)


def promote_several(folder: str) -> None:
    repository = Repository(Path(folder))
    for _ in range(12):
        # It may be retired between the look and the promotion.
        with suppress(VersionNotFound):
            promote(repository, repository.versions(SPEC.name)[-1])


def retire_several(folder: str) -> None:
    repository = Repository(Path(folder))
    for _ in range(12):
        for version in repository.versions(SPEC.name)[:-1]:
            with suppress(ReleaseError, VersionNotFound):
                release.retire(repository, SPEC, version)


def test_publishing_promoting_and_retiring_at_once_lose_nothing(tmp_path: Path):
    repository = Repository(tmp_path)
    publish_bytes(repository, b"graph")
    context = multiprocessing.get_context("spawn")
    jobs = (publish_several, promote_several, retire_several)
    workers = [context.Process(target=job, args=(str(tmp_path),)) for job in jobs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [w.exitcode for w in workers] == [0] * len(jobs)
    state = repository.serving(SPEC.name)
    versions = repository.versions(SPEC.name)
    assert state.noted("publish") == set(range(1, 10))
    assert state.noted("publish") - state.noted("retire") == set(versions)
    assert 1 <= [e.action for e in state.events].count("promote") <= 12
    expected = repository.expected_files(SPEC)
    assert {name: repository.read_file(SPEC.name, name) for name in expected} == expected
    for version in versions:
        assert repository.manifest(SPEC.name, version).differences(tmp_path / SPEC.name / str(version)) == []
