"""The same publish to object storage: against a real S3 server, with a real tritonserver that reads from it."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from botocore.exceptions import ReadTimeoutError
from served import BriefServer
from tritonclient.grpc import InferenceServerClient, InferInput

from rfserve.export import alias, onnx_file, pbtxt, release, verification
from rfserve.export.cli import main
from rfserve.export.commands import inspect
from rfserve.export.errors import (
    LiveServerError,
    ReleaseError,
    RepositoryError,
    StoreUnavailable,
    VersionExists,
    VersionNotFound,
)
from rfserve.export.live import LiveServer
from rfserve.export.manifest import Manifest
from rfserve.export.object_repository import ObjectRepository
from rfserve.export.repository import version_files
from rfserve.export.serving import Event, Serving
from rfserve.export.spec import Placement, example, find
from rfserve.server.errors import ModelLoadError
from rfserve.server.errors import RepositoryError as UnservableRepository
from rfserve.server.process import ServerOptions, TritonServer
from rfserve.server.security import Security

SPEC = find("mel_features")
BUCKET = "rfserve-tests"
CONFIGURATIONS = ("config.pbtxt", *(f"configs/{name}.pbtxt" for name in pbtxt.CONFIGURATIONS))
FREE = {"grpc_port": 0, "http_port": 0, "metrics_port": 0}


class Prefix:
    """A prefix of one test's own, seen by a client that is not the repository's."""

    def __init__(self, endpoint: str, name: str) -> None:
        self.endpoint, self.name = endpoint, f"{name}/models"
        self.client = boto3.client("s3", endpoint_url=endpoint)
        self.location = f"s3://{endpoint}/{BUCKET}/{self.name}"

    def repository(self, timeout_s: float = 30) -> ObjectRepository:
        return ObjectRepository(self.location, timeout_s)

    def names(self, below: str = "") -> set[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{self.name}/{below}")
        return {o["Key"].removeprefix(self.name + "/") for page in pages for o in page.get("Contents", ())}

    def read(self, name: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=BUCKET, Key=f"{self.name}/{name}")["Body"].read()
        return content

    def put(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=f"{self.name}/{name}", Body=content)

    def delete(self, *names: str) -> None:
        self.client.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": f"{self.name}/{n}"} for n in names]})

    def configured(self) -> set[int]:
        """The versions that the configurations name; 0 where there is none."""
        found: set[int] = set()
        there = self.names()
        for name in CONFIGURATIONS:
            if f"{SPEC.name}/{name}" in there:
                policy = pbtxt.parse(self.read(f"{SPEC.name}/{name}").decode()).version_policy
                assert policy.HasField("specific"), f"{name}: Triton would take the newest"
                found |= set(policy.specific.versions)
        return found

    def assert_whole(self, version: int, repository: ObjectRepository) -> None:
        with repository.version_folder(SPEC.name, version) as folder:
            assert repository.manifest(SPEC.name, version).differences(folder) == []


@pytest.fixture
def prefix(s3_endpoint: str, request) -> Prefix:
    found = Prefix(s3_endpoint, re.sub(r"[^0-9A-Za-z-]+", "-", request.node.name).strip("-"))
    found.client.create_bucket(Bucket=BUCKET)
    return found


def files_of(content: bytes) -> dict[str, bytes]:
    """A graph, and weights beside it."""
    return {"model.onnx": content, "model.onnx.weights": b"weights of " + content[:100]}


def fill(content: bytes = b"graph", **others: bytes) -> Callable[[Path], Callable[[int], Manifest]]:
    """A version of these, and of further files by name."""

    def write(folder: Path) -> Callable[[int], Manifest]:
        for name, part in {**files_of(content), **others}.items():
            (folder / name).write_bytes(part)
        files = version_files(folder)
        return lambda number: Manifest(model=SPEC.name, version=number, weights="none", files=files, git_revision=None)

    return write


def before_changes(repository: ObjectRepository, hook: Callable[[str, str], None]) -> None:
    """Call `hook` with method and path below the model before every request that changes something is sent."""

    def call(request: Any, **_: object) -> None:
        if request.method != "GET":
            hook(request.method, request.url.split("?")[0].split(f"{SPEC.name}/")[-1])

    repository._store._client.meta.events.register("before-send.s3", call)


def changes(repository: ObjectRepository) -> list[str]:
    """The requests from now on that change something."""
    seen: list[str] = []
    before_changes(repository, lambda method, path: seen.append(f"{method} {path}"))
    return seen


def after_upload(repository: ObjectRepository, name: str, hook: Callable[[], None]) -> None:
    """Call `hook` once, when the object of that name has been written and before it is read back."""
    done: list[str] = []

    def call(parsed: Any, **_: object) -> None:
        if seen and seen[-1] == f"PUT {name}" and not done:
            done.append(name)
            hook()

    seen = changes(repository)
    repository._store._client.meta.events.register("after-call.s3.PutObject", call)


def test_published_version_is_whole_with_its_configuration(prefix: Prefix):
    repository = prefix.repository()
    manifest = repository.publish(SPEC, fill())
    assert manifest.version == 1
    assert prefix.names() == {
        "mel_features/1/manifest.json",
        "mel_features/1/model.onnx",
        "mel_features/1/model.onnx.weights",
        *(f"mel_features/{name}" for name in CONFIGURATIONS),
        "mel_features/serving.json",
        "mel_features/warmup/raw_iq",
    }
    assert repository.manifest(SPEC.name, 1) == manifest
    content = prefix.read(f"{SPEC.name}/1/manifest.json")
    assert repository.manifest_sha256(SPEC.name, 1) == hashlib.sha256(content).hexdigest()
    assert prefix.configured() == {1}
    prefix.assert_whole(1, repository)
    assert repository.models() == [SPEC.name]
    assert [(e.action, e.version) for e in repository.serving(SPEC.name).events] == [("publish", 1)]
    assert verification._configuration_problems(repository, SPEC) == []


def test_manifest_comes_after_every_object_and_the_configuration_after_the_manifest(prefix: Prefix):
    repository = prefix.repository()
    repository.publish(SPEC, fill())
    seen = changes(repository)
    repository.publish(SPEC, fill(b"other"))
    assert seen == [
        "PUT .claims/2",
        "PUT 2/model.onnx.weights",
        "PUT 2/model.onnx",
        "PUT 2/manifest.json",
        "PUT serving.json",
        *(f"PUT {name}" for name in [*sorted(CONFIGURATIONS[1:]), "config.pbtxt"]),
        "DELETE .claims/2",
    ]
    assert prefix.configured() == {2}


def test_next_version_follows_the_greatest(prefix: Prefix):
    repository = prefix.repository()
    assert [repository.publish(SPEC, fill(), v).version for v in (None, 7, None)] == [1, 7, 8]
    assert repository.versions(SPEC.name) == [1, 7, 8]


def test_published_version_is_immutable(prefix: Prefix):
    repository = prefix.repository()
    repository.publish(SPEC, fill(), 3)
    seen = changes(repository)
    with pytest.raises(VersionExists, match=r"mel_features/3 is published already.*to get 4"):
        repository.publish(SPEC, fill(b"other"), 3)
    assert seen == []
    prefix.assert_whole(3, repository)


def fork(work: Callable[[], object]) -> int:
    """Do something in a child process, with nothing to import first; its id. A repository must not have been used."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    finally:
        os._exit(1 if sys.exc_info()[0] else 0)


@pytest.fixture(scope="module")
def killer(tmp_path_factory) -> Iterator[Callable[[str, dict[str, bytes], int], bool]]:
    """Publish the files in a process that is killed before its change number so and so; whether it came that far."""
    folder: Path = tmp_path_factory.mktemp("version")
    command = [sys.executable, str(Path(__file__).with_name("forked_publisher.py"))]
    # Who is killed leaves the local copy of the version behind.
    environment = os.environ | {"TMPDIR": str(tmp_path_factory.mktemp("left"))}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def publish(location: str, files: dict[str, bytes], step: int) -> bool:
            for name, content in files.items():
                (folder / name).write_bytes(content)
            order = {"location": location, "folder": str(folder), "step": step}
            order["environment"] = {k: v for k, v in os.environ.items() if k.startswith("AWS_")}
            stdin.write(json.dumps(order) + "\n")
            stdin.flush()
            answer = stdout.readline().strip()
            assert answer in {"killed", "done"}
            return answer == "killed"

        yield publish
        process.kill()


@pytest.mark.parametrize("first", [True, False])
def test_killed_publisher_leaves_what_was_there_and_the_same_publish_goes_on(first: bool, prefix: Prefix, killer):
    repository = prefix.repository()
    published = 0 if first else repository.publish(SPEC, fill()).version
    seen = changes(repository)
    step = 1
    while killer(prefix.location, files_of(content := b"graph %d" % step), step):
        number = published + 1
        left = {name.split("/")[-1] for name in prefix.names(f"{SPEC.name}/{number}/")}
        if is_published := "manifest.json" in left:
            assert left == {"manifest.json", "model.onnx", "model.onnx.weights"}
        # Whatever was cut off, each configuration names a version that is whole, or none.
        assert not left or prefix.names() >= {f"{SPEC.name}/{name}" for name in CONFIGURATIONS}
        assert prefix.configured() <= {published, *([number] if is_published else [])}
        assert repository.versions(SPEC.name) == list(range(1, number + is_published))
        seen.clear()
        assert repository.publish(SPEC, fill(content)).version == number
        assert {s for s in seen if f" {number}/" in s} == {
            f"PUT {number}/{name}" for name in {"manifest.json", "model.onnx", "model.onnx.weights"} - left
        }
        prefix.assert_whole(number, repository)
        assert prefix.configured() == {number}
        assert prefix.names(f"{SPEC.name}/.claims") == set()
        events = repository.serving(SPEC.name).events
        assert [(e.action, e.version) for e in events] == [("publish", v + 1) for v in range(number)]
        step += 1
        if not first:
            published = number
        elif is_published:
            # From here on it is as with any other version.
            break
        else:
            prefix.delete(*prefix.names())
    assert step == 9 + len(CONFIGURATIONS)


def test_given_up_publication_blocks_no_other_and_is_cleared_by_retire(prefix: Prefix, killer):
    assert killer(prefix.location, files_of(b"given up"), 10)
    repository = prefix.repository()
    assert repository.versions(SPEC.name) == []
    assert f"{SPEC.name}/.claims/1" in prefix.names()
    assert repository.publish(SPEC, fill(b"other")).version == 2
    with pytest.raises(RepositoryError, match=r"mel_features/1 is claimed for other content.*retire mel_features 1"):
        repository.publish(SPEC, fill(b"third"), 1)
    # Not resumed: it would be older than what is published, and nobody would serve it.
    assert repository.publish(SPEC, fill(b"given up")).version == 3
    repository.retire(SPEC, 1)
    assert {n.split("/")[1] for n in prefix.names()} == {"2", "3", "configs", "config.pbtxt", "serving.json", "warmup"}
    assert repository.publish(SPEC, fill(b"third"), 1).version == 1


def test_two_publishers_at_once_get_different_numbers(prefix: Prefix):
    # The second contents are the same, which a publisher that was given up would go on with.
    contents = [[b"%d" % w, b"the same", b"and again"] for w in range(2)]
    repositories = [prefix.repository() for _ in contents]
    children = [
        fork(lambda r=r, c=c: [r.publish(SPEC, fill(x)) for x in c])
        for r, c in zip(repositories, contents, strict=True)
    ]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    repository = prefix.repository()
    assert repository.versions(SPEC.name) == [1, 2, 3, 4, 5, 6]
    for version in repository.versions(SPEC.name):
        prefix.assert_whole(version, repository)
    assert prefix.configured() == {6}
    assert prefix.names(f"{SPEC.name}/.claims") == set()
    assert sorted(e.version for e in repository.serving(SPEC.name).events) == [1, 2, 3, 4, 5, 6]


def test_same_content_from_two_threads_gets_two_numbers(prefix: Prefix):
    repositories = [prefix.repository() for _ in range(2)]
    meeting = threading.Barrier(2, timeout=60)

    def together(folder: Path) -> Callable[[int], Manifest]:
        made = fill()(folder)
        meeting.wait()
        return made

    threads = [threading.Thread(target=r.publish, args=(SPEC, together)) for r in repositories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert prefix.repository().versions(SPEC.name) == [1, 2]


def test_publisher_whose_claim_was_taken_over_takes_the_next_number(prefix: Prefix):
    repository, other = prefix.repository(), prefix.repository()

    def take_over() -> None:
        claim = json.loads(prefix.read(f"{SPEC.name}/.claims/1"))
        prefix.put(f"{SPEC.name}/.claims/1", json.dumps(claim | {"place": "another machine"}).encode())
        assert other.publish(SPEC, fill()).version == 1

    after_upload(repository, "1/model.onnx", take_over)
    assert repository.publish(SPEC, fill()).version == 2
    for version in (1, 2):
        prefix.assert_whole(version, repository)


def test_publisher_whose_number_was_given_to_other_content_does_not_publish_it(prefix: Prefix):
    repository = prefix.repository()
    claim = {"content": "other", "owner": "other", "place": "another machine"}

    def replace_claim() -> None:
        there = json.loads(prefix.read(f"{SPEC.name}/.claims/1"))
        prefix.put(f"{SPEC.name}/.claims/1", json.dumps(there | claim).encode())
        prefix.put(f"{SPEC.name}/1/model.onnx", b"other")

    after_upload(repository, "1/model.onnx.weights", replace_claim)
    assert repository.publish(SPEC, fill()).version == 2
    assert repository.versions(SPEC.name) == [2]


def test_endpoint_that_fails_does_not_change_what_is_served(prefix: Prefix):
    for content in (b"1", b"2"):
        prefix.repository().publish(SPEC, fill(content))
    repository = prefix.repository()

    def fail(request: Any, **_: object) -> None:
        if "/2/manifest.json" in request.url:
            raise ReadTimeoutError(endpoint_url=request.url)

    repository._store._client.meta.events.register("before-send.s3", fail)
    with pytest.raises(StoreUnavailable, match=r"2/manifest\.json"):
        repository.write_configuration(SPEC)
    assert prefix.configured() == {2}


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.weights", "manifest.json"])
def test_object_that_reads_back_different_is_refused(name: str, prefix: Prefix):
    repository = prefix.repository()
    path = f"{SPEC.name}/1/{name}"
    # As many bytes: a size says nothing.
    after_upload(repository, f"1/{name}", lambda: prefix.put(path, prefix.read(path)[::-1]))
    with pytest.raises(RepositoryError, match=f"{name} reads back different.*nothing was published"):
        repository.publish(SPEC, fill())
    assert repository.versions(SPEC.name) == []
    assert prefix.configured() == {0}
    seen = changes(repository)
    assert repository.publish(SPEC, fill()).version == 1
    assert f"PUT 1/{name}" in seen
    prefix.assert_whole(1, repository)


def damage_object(prefix: Prefix) -> None:
    prefix.put("mel_features/1/model.onnx", b"grapf")


def damage_manifest(prefix: Prefix) -> None:
    prefix.put("mel_features/1/manifest.json", b"{")


def damage_a_byte(prefix: Prefix) -> None:
    name = "mel_features/1/manifest.json"
    prefix.put(name, prefix.read(name).replace(b'"none"', b'"n\xffne"'))


def damage_config(prefix: Prefix) -> None:
    prefix.put("mel_features/configs/gpu.pbtxt", prefix.read("mel_features/configs/gpu.pbtxt") + b"max_batch_size: 4")


DAMAGES = (
    (damage_object, "model.onnx changed"),
    (damage_manifest, "manifest.json is damaged"),
    (damage_config, "configs/gpu.pbtxt is not what the spec and serving.json say"),
    (lambda p: p.put("mel_features/1/notes.txt", b"hello"), "notes.txt is not in the manifest"),
    (lambda p: p.delete("mel_features/1/model.onnx"), "model.onnx is missing"),
    (lambda p: p.delete("mel_features/config.pbtxt"), "config.pbtxt is missing"),
    (lambda p: p.put("mel_features/serving.json", b"{"), "serving.json is damaged"),
    (lambda p: p.delete("mel_features/warmup/raw_iq"), "warmup/raw_iq is missing"),
    (lambda p: p.put("mel_features/warmup/raw_iq", b""), "warmup/raw_iq is not what the spec and serving.json say"),
    (damage_a_byte, "1/manifest.json is damaged (it holds bytes that are no UTF-8)"),
    (lambda p: p.delete("mel_features/1/manifest.json"), "no version is published"),
)


def test_check_finds_what_changed(prefix: Prefix, capsys):
    prefix.repository().publish(SPEC, fill())
    whole = {name: prefix.read(name) for name in prefix.names()}
    for damage, message in DAMAGES:
        damage(prefix)
        assert main(["check", "--repository", prefix.location]) == 1
        assert message in capsys.readouterr().out
        prefix.delete(*(prefix.names() - set(whole)) or ["nothing"])
        for name, content in whole.items():
            if name not in prefix.names() or prefix.read(name) != content:
                prefix.put(name, content)


def test_writers_of_the_history_lose_nothing_to_each_other(prefix: Prefix):
    repository, other = prefix.repository(), prefix.repository()
    for content in (b"1", b"2"):
        repository.publish(SPEC, fill(content))
    asked: list[Serving] = []

    def promote(state: Serving) -> Serving:
        if not asked:
            other.change_serving(SPEC, lambda s: s.with_event(Event(action="promote", version=2, targets=("gpu",))))
        asked.append(state)
        return state.with_event(Event(action="promote", version=1, targets=("cpu",)))

    assert repository.change_serving(SPEC, promote).promoted == {"cpu": 1, "gpu": 2}
    assert len(asked) == 2
    assert repository.serving(SPEC.name).promoted == {"cpu": 1, "gpu": 2}
    names = {n: pbtxt.parse(prefix.read(f"{SPEC.name}/{n}").decode()).version_policy for n in CONFIGURATIONS}
    assert {n: list(p.specific.versions) for n, p in names.items()} == {
        n: [2] if "gpu" in n else [1] for n in CONFIGURATIONS
    }


def lose_answer(repository: ObjectRepository, name: str) -> list[str]:
    """Have the endpoint do the next write of that name, and its answer be lost; holds the name once that was done."""
    client, lost = repository._store._client, []

    def call(request: Any, **_: object) -> None:
        if request.method == "PUT" and request.url.endswith(f"/{name}") and not lost:
            lost.append(name)
            client._endpoint.http_session.send(request)
            raise ReadTimeoutError(endpoint_url=request.url)

    client.meta.events.register("before-send.s3", call)
    return lost


def fail_writes(repository: ObjectRepository, *names: str, error: type[BaseException] = ReadTimeoutError) -> None:
    """Have writes of these names below the model fail before they are sent."""

    def call(method: str, path: str) -> None:
        if method == "PUT" and path in names:
            raise error(endpoint_url=path) if error is ReadTimeoutError else error

    before_changes(repository, call)


class DeafServer(LiveServer):
    """A server that serves nothing of this model, and loads nothing."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1:9", 1)

    def target(self, model: str) -> str | None:
        return None

    def is_ready(self, model: str, version: int | None = None) -> bool:
        return False

    def load(self, model: str) -> None:
        raise LiveServerError(f"{self.url}: cannot load {model}")


@pytest.fixture
def two_versions(prefix: Prefix, monkeypatch) -> Serving:
    """Of which the first is promoted; what is served. Their graphs are none, so that nobody may verify them."""
    monkeypatch.setattr(alias, "verify", lambda *_: None)
    repository = prefix.repository()
    for content in (b"1", b"2"):
        repository.publish(SPEC, fill(content))
    return repository.change_serving(
        SPEC, lambda s: s.with_event(Event(action="promote", version=1, targets=("cpu", "gpu")))
    )


def test_failed_promotion_is_undone_though_an_answer_was_lost(prefix: Prefix, two_versions: Serving):
    repository = prefix.repository()
    lost = lose_answer(repository, "serving.json")
    with DeafServer() as deaf, pytest.raises(ReleaseError, match=r"/2 was not promoted: .*cannot load mel_features"):
        release.promote(repository, SPEC, 2, servers=[deaf])
    assert lost
    assert repository.serving(SPEC.name) == two_versions
    assert prefix.configured() == {1}


def test_rollback_is_made_once_though_an_answer_was_lost(prefix: Prefix, two_versions: Serving):
    repository = prefix.repository()
    release.promote(repository, SPEC, 2)
    lost = lose_answer(repository, "serving.json")
    assert release.rollback(repository, SPEC).versions == {"cpu": 1, "gpu": 1}
    assert lost
    state = repository.serving(SPEC.name)
    assert [e.action for e in state.events[len(two_versions.events) :]] == ["promote", "rollback"]
    assert prefix.configured() == {1}


def test_write_on_a_tag_that_is_not_there_any_more_is_refused(prefix: Prefix):
    repository = prefix.repository()
    repository.publish(SPEC, fill())
    store, key = repository._store, repository._at.key(SPEC.name, "serving.json")
    there = store.read(key)
    assert there is not None
    assert there.owner
    assert not store.replace(key, b"{}", '"0"')
    assert store.read(key) == there


@pytest.mark.parametrize(("error", "said"), [(ReadTimeoutError, "config.pbtxt.*time-out"), (KeyboardInterrupt, "")])
def test_promotion_whose_configuration_is_not_written_is_undone(error, said, prefix: Prefix, two_versions: Serving):
    repository = prefix.repository(timeout_s=3)
    # The last one, which goes on naming what was served.
    fail_writes(repository, "config.pbtxt", error=error)
    said = rf"mel_features/2 was not promoted: .*{said}.*; what was served before is served again$"
    with pytest.raises(ReleaseError, match=said):
        release.promote(repository, SPEC, 2)
    assert repository.serving(SPEC.name) == two_versions
    assert prefix.configured() == {1}
    assert verification._configuration_problems(repository, SPEC) == []


def test_promotion_that_cannot_go_back_says_what_is_left_in_the_configuration(prefix: Prefix, two_versions: Serving):
    repository = prefix.repository(timeout_s=3)
    fallen: list[str] = []

    def fall(method: str, path: str) -> None:
        if path == "configs/gpu.pbtxt":
            fallen.append(path)
        if path.endswith(".pbtxt") and fallen:
            raise ReadTimeoutError(endpoint_url=path)

    before_changes(repository, fall)
    with pytest.raises(ReleaseError) as refused:
        release.promote(repository, SPEC, 2)
    said = str(refused.value)
    assert said.startswith(
        "mel_features/2 was not promoted: mel_features: the change was recorded in serving.json, but"
    )
    assert "what was served before is recorded, but going back failed: mel_features: the change was recorded" in said
    assert said.endswith("`rfserve-export configure` writes it; servers that run take it when they load next")
    assert repository.serving(SPEC.name) == two_versions
    assert prefix.configured() == {1, 2}
    prefix.repository().write_configuration(SPEC)
    assert prefix.configured() == {1}


def test_promotion_that_may_stand_when_the_store_is_gone_is_not_called_undone(prefix: Prefix, two_versions: Serving):
    repository = prefix.repository(timeout_s=3)
    lost = lose_answer(repository, "serving.json")

    def fall(request: Any, **_: object) -> None:
        if lost:
            raise ReadTimeoutError(endpoint_url=request.url)

    repository._store._client.meta.events.register("before-send.s3", fall)
    with pytest.raises(ReleaseError) as refused:
        release.promote(repository, SPEC, 2)
    said = str(refused.value)
    assert said.startswith("the promotion of mel_features/2 failed: ")
    assert f"it may stand in {prefix.location}, where it could not be taken back: " in said
    assert "served again" not in said
    assert said.endswith(
        "`rfserve-export history mel_features` ends with it then, `rfserve-export rollback mel_features` takes it back"
    )
    mended = prefix.repository()
    assert mended.serving(SPEC.name).events[-1].version == 2
    assert release.rollback(mended, SPEC).versions == two_versions.promoted
    assert prefix.configured() == {1}


def test_promotion_that_was_never_recorded_is_the_stores_own_error(prefix: Prefix, two_versions: Serving):
    repository = prefix.repository(timeout_s=3)
    fail_writes(repository, "serving.json")
    said = r"cannot write .*serving\.json on a condition.*may have been written all the same"
    with pytest.raises(StoreUnavailable, match=said):
        release.promote(repository, SPEC, 2)
    assert repository.serving(SPEC.name) == two_versions
    assert prefix.configured() == {1}


@pytest.mark.parametrize(
    "change",
    [
        lambda r: release.rollback(r, SPEC),
        lambda r: r.change_serving(
            SPEC, lambda s: s.placed("cpu", Placement(instances=2, intra_op_threads=2, joined_rows=4))
        ),
    ],
)
def test_change_whose_configuration_is_not_written_says_so(change, prefix: Prefix, two_versions: Serving):
    repository = prefix.repository(timeout_s=3)
    release.promote(repository, SPEC, 2)
    fail_writes(repository, "config.pbtxt")
    said = (
        r"recorded in serving\.json, but the configuration that .*config\.pbtxt.*`rfserve-export configure` writes it"
    )
    with pytest.raises(StoreUnavailable, match=said):
        change(repository)
    mended = prefix.repository()
    assert mended.serving(SPEC.name) != two_versions
    assert verification._configuration_problems(mended, SPEC) != []
    mended.write_configuration(SPEC)
    assert verification._configuration_problems(mended, SPEC) == []


def test_configuration_settles_on_what_was_published_meanwhile(prefix: Prefix):
    repository, other = prefix.repository(), prefix.repository()
    repository.publish(SPEC, fill(b"1"))
    # The other one publishes, configures and ends while this one writes what followed from its own version.
    after_upload(repository, "configs/gpu.pbtxt", lambda: other.publish(SPEC, fill(b"3")) and None)
    repository.publish(SPEC, fill(b"2"))
    assert repository.versions(SPEC.name) == [1, 2, 3]
    assert prefix.configured() == {3}


def test_version_that_is_not_published_is_not_promoted(prefix: Prefix):
    repository = prefix.repository()
    repository.publish(SPEC, fill())
    seen = changes(repository)
    with pytest.raises(VersionNotFound, match="version 5 is promoted for cpu but not published"):
        repository.change_serving(SPEC, lambda s: s.with_event(Event(action="promote", version=5, targets=("cpu",))))
    assert seen == []


def test_retired_version_is_gone_and_its_number_stays_used(prefix: Prefix):
    repository = prefix.repository()
    for content in (b"1", b"2", b"3"):
        repository.publish(SPEC, fill(content))
    with pytest.raises(ReleaseError, match="mel_features/3 is what cpu and gpu serves"):
        repository.retire(SPEC, 3)
    repository.change_serving(SPEC, lambda s: s.with_event(Event(action="promote", version=1, targets=("cpu", "gpu"))))
    seen = changes(repository)
    repository.retire(SPEC, 3)
    assert seen[0] == "DELETE 3/manifest.json"
    assert not prefix.names(f"{SPEC.name}/3/")
    assert repository.versions(SPEC.name) == [1, 2]
    assert prefix.configured() == {1}
    with pytest.raises(VersionExists, match=r"mel_features/3 was retired.*to get 4"):
        repository.publish(SPEC, fill(b"4"), 3)
    assert repository.publish(SPEC, fill(b"4")).version == 4
    with pytest.raises(VersionNotFound, match="mel_features/3 is not published"):
        repository.retire(SPEC, 3)


def test_version_that_is_promoted_while_it_retires_stays(prefix: Prefix):
    repository, other = prefix.repository(), prefix.repository()
    for content in (b"1", b"2"):
        repository.publish(SPEC, fill(content))
    before = prefix.read(f"{SPEC.name}/1/manifest.json")

    def promote(method: str, path: str) -> None:
        if (method, path) == ("DELETE", "1/manifest.json"):
            event = Event(action="promote", version=1, targets=("cpu",))
            other.change_serving(SPEC, lambda s: s.with_event(event))

    before_changes(repository, promote)
    with pytest.raises(ReleaseError, match="mel_features/1 is what cpu serves"):
        repository.retire(SPEC, 1)
    assert prefix.read(f"{SPEC.name}/1/manifest.json") == before
    assert repository.versions(SPEC.name) == [1, 2]


def test_retirement_that_was_cut_off_is_finished_by_the_same_command(prefix: Prefix):
    repository = prefix.repository()
    for content in (b"1", b"2"):
        repository.publish(SPEC, fill(content))

    def fail(request: Any, **_: object) -> None:
        if request.method == "PUT":
            raise ReadTimeoutError(endpoint_url=request.url)

    cut_off = prefix.repository()
    cut_off._store._client.meta.events.register("before-send.s3", fail)
    with pytest.raises(StoreUnavailable, match=r"mel_features/1 is retired, but .*retire mel_features 1` finishes"):
        cut_off.retire(SPEC, 1)
    assert repository.versions(SPEC.name) == [2]
    repository.retire(SPEC, 1)
    assert prefix.names(f"{SPEC.name}/1/") == set()
    assert repository.serving(SPEC.name).noted("retire") == {1}
    with pytest.raises(VersionExists, match="mel_features/1 was retired"):
        repository.publish(SPEC, fill(b"3"), 1)


def test_large_file_goes_in_parts_and_reads_back(prefix: Prefix):
    repository = prefix.repository()
    large = np.random.default_rng(0).bytes(20 << 20)
    seen = changes(repository)
    repository.publish(SPEC, fill(**{"large.weights": large}))
    assert seen.count("PUT 1/large.weights") > 1
    with repository.version_folder(SPEC.name, 1) as folder:
        assert (folder / "large.weights").read_bytes() == large


def infer(server: TritonServer, version: str = "") -> tuple[dict[str, np.ndarray], str]:
    inputs = example(SPEC, batch=2)
    with InferenceServerClient(server.grpc_url) as client:
        tensors = []
        for tensor in SPEC.inputs:
            given = InferInput(tensor.name, inputs[tensor.name].shape, tensor.dtype.value)
            given.set_data_from_numpy(inputs[tensor.name])
            tensors.append(given)
        answer = client.infer(SPEC.name, tensors, model_version=version, client_timeout=30)
    return {t.name: answer.as_numpy(t.name) for t in SPEC.outputs}, answer.get_response().model_version


@pytest.mark.server
def test_commands_work_on_it_and_a_server_serves_whole_versions_only(prefix: Prefix, killer, capsys, monkeypatch):
    # The endpoint from the environment, as the commands of both sides are given it.
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", prefix.endpoint)
    location = f"s3://{BUCKET}/{prefix.name}"
    assert main(["write", SPEC.name, "--repository", location]) == 0
    assert capsys.readouterr().out == f"{location}/{SPEC.name}/1\n"
    graph = prefix.read(f"{SPEC.name}/1/model.onnx")

    # The graph of the second version is there, and its manifest is not.
    repository = ObjectRepository(location)
    assert killer(prefix.location, files_of(graph), 6)
    assert {n.split("/")[-1] for n in prefix.names(f"{SPEC.name}/2/")} == {"model.onnx", "model.onnx.weights"}
    # Of another model, nothing is published yet.
    other = find("iq_features")
    repository.write_configuration(other)
    prefix.put("iq_features/1/model.onnx", graph)

    assert main(["list", "--repository", location]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^mel_features +1  cpu,gpu ", out, re.MULTILINE)
    assert "iq_features             -  no version" in out
    assert main(["check", SPEC.name, "--repository", location]) == 0

    with BriefServer(ServerOptions(repository=location, security=Security(open_admin=True), **FREE)) as server:
        assert server.models == (SPEC.name,)
        got, version = infer(server)
        assert version == "1"
        with repository.version_folder(SPEC.name, 1) as folder:
            session = onnx_file.open_session(folder / "model.onnx")
        expected = onnx_file.run_session(session, example(SPEC, batch=2))
        for name, array in expected.items():
            np.testing.assert_allclose(got[name], array, rtol=0, atol=SPEC.tolerance)
        assert repository.publish(SPEC, fill(graph)).version == 2
        assert main(["promote", SPEC.name, "2", "--repository", location, "--url", server.grpc_url]) == 0
        assert infer(server)[1] == "2"
    prefix.delete(f"{SPEC.name}/config.pbtxt")
    monkeypatch.setattr(inspect, "MODELS", {SPEC.name: SPEC})
    assert main(["configure", "--repository", location]) == 0
    assert main(["check", SPEC.name, "--repository", location]) == 0


@pytest.mark.server
def test_server_command_says_why_it_cannot_serve(prefix: Prefix):
    prefix.repository().publish(SPEC, fill(b"no graph"))
    with pytest.raises(ModelLoadError, match=r"1 of 1 models did not load: mel_features: .*model\.onnx"):
        BriefServer(ServerOptions(repository=prefix.location, **FREE)).start()
    with pytest.raises(UnservableRepository, match=r"cannot open s3://.*nothing: .*not a valid directory"):
        BriefServer(ServerOptions(repository=f"{prefix.location}/nothing", **FREE)).start()
    with pytest.raises(ModelLoadError, match=r"1 of 1 models did not load: iq_features: model not found"):
        BriefServer(ServerOptions(repository=prefix.location, models=("iq_features",), **FREE)).start()


@pytest.mark.server
def test_server_command_serves_nothing_when_nothing_is_published(prefix: Prefix, killer):
    assert killer(prefix.location, files_of(b"graph"), 10)
    assert prefix.names(f"{SPEC.name}/1/")
    with pytest.raises(UnservableRepository, match="holds no model with a version"):
        BriefServer(ServerOptions(repository=prefix.location, **FREE)).start()


def test_boto3_that_is_missing_is_named():
    program = (
        "import sys; sys.modules['boto3'] = None\n"
        "from rfserve.export.commands.repository_option import repository_at\n"
        "from rfserve.export.errors import RepositoryError\n"
        "repository_at('model_repository')\n"
        "try: repository_at('s3://bucket/prefix')\n"
        "except RepositoryError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == "s3://bucket/prefix needs boto3, which is not installed: pip install 'rfserve[s3]'\n"
