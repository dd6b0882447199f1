"""Object storage that is away, mute, elsewhere or closed: an error of its own within the time-out, and nothing done."""

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from rfserve.export.cli import main
from rfserve.export.errors import RepositoryError, StoreRefused, StoreUnavailable
from rfserve.export.manifest import Manifest
from rfserve.export.object_location import ObjectLocation
from rfserve.export.object_repository import ObjectRepository
from rfserve.export.spec import find
from rfserve.server.errors import ModelLoadError
from rfserve.server.process import ServerOptions, TritonServer

SPEC = find("locate")
BUCKET = "rfserve-errors"
# A busy machine may hold any process up so long.
STALL_S = 2.0


def fill(_: Path):
    return lambda number: Manifest(model=SPEC.name, version=number, weights="none", git_revision=None)


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return int(holder.getsockname()[1])


@pytest.fixture
def mute_port() -> Iterator[int]:
    """A port that accepts, and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    taken.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in taken:
            connection.close()


@pytest.fixture
def bucket(s3_endpoint: str) -> str:
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket=BUCKET)
    return f"s3://{s3_endpoint}/{BUCKET}"


@pytest.mark.parametrize("port", ["closed_port", "mute_port"])
@pytest.mark.parametrize("timeout_s", [4.0, 8.0])
@pytest.mark.usefixtures("s3_endpoint")
def test_dead_endpoint_is_an_error_within_the_time_out(port: str, timeout_s: float, request):
    address = f"http://127.0.0.1:{request.getfixturevalue(port)}"
    repository = ObjectRepository(f"s3://{address}/{BUCKET}/models", timeout_s)
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable, match=f"{address}.*the time-out is {timeout_s:g} s"):
        repository.publish(SPEC, fill)
    assert time.monotonic() - begun < timeout_s + STALL_S


@pytest.mark.usefixtures("s3_endpoint")
def test_commands_end_within_the_time_out_they_are_given(mute_port: int, capsys):
    location = f"s3://http://127.0.0.1:{mute_port}/{BUCKET}/models"
    for arguments in (["list"], ["check"], ["configure"], ["write", "mel_features", "--missing"]):
        begun = time.monotonic()
        assert main([*arguments, "--store-timeout-s", "3", "--repository", location]) == 1
        assert last_line(capsys.readouterr().err).startswith(f"error: {location}: cannot ")
        # The export comes before a publication.
        assert arguments[0] == "write" or time.monotonic() - begun < 3 + STALL_S


def last_line(err: str) -> str:
    return err.splitlines()[-1]


@pytest.mark.server
@pytest.mark.parametrize("port", ["closed_port", "mute_port"])
@pytest.mark.usefixtures("s3_endpoint")
def test_server_on_a_dead_endpoint_ends_with_an_error(port: str, request):
    number = request.getfixturevalue(port)
    location = f"s3://http://127.0.0.1:{number}/{BUCKET}/models"
    options = ServerOptions(repository=location, grpc_port=0, http_port=0, metrics_port=0, load_timeout_s=3)
    what = "nothing answers at" if port == "closed_port" else ""
    begun = time.monotonic()
    with pytest.raises(ModelLoadError, match=f"not ready after 3 s: {what}.*127.0.0.1:{number}"):
        TritonServer(options).start()
    assert time.monotonic() - begun < 30


def test_missing_bucket_is_named(s3_endpoint: str):
    repository = ObjectRepository(f"s3://{s3_endpoint}/no-such-bucket/models")
    with pytest.raises(StoreRefused, match="no bucket 'no-such-bucket'; create it"):
        repository.publish(SPEC, fill)


def test_repository_that_is_not_there_is_named(bucket: str):
    with pytest.raises(RepositoryError, match=r"no model repository at s3://.*nothing; write one"):
        ObjectRepository(f"{bucket}/nothing").models()


def test_missing_credentials_are_named(bucket: str, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(StoreRefused, match="Unable to locate credentials; give AWS_ACCESS_KEY_ID"):
        ObjectRepository(bucket).versions(SPEC.name)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreRefused, match=r"profile \(nobody\) could not be found; give"):
        ObjectRepository(bucket).versions(SPEC.name)


def test_credentials_of_a_profile_are_used(bucket: str, tmp_path: Path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text("[tests]\naws_access_key_id = k\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "tests")
    assert ObjectRepository(bucket).versions(SPEC.name) == []


@pytest.fixture
def strict_endpoint(s3_endpoint: str) -> Iterator[tuple[str, str, str]]:
    """The endpoint while it checks signatures and permissions, and a key of one who may do nothing."""
    iam = boto3.client("iam", endpoint_url=s3_endpoint)
    iam.create_user(UserName="nobody")
    key = iam.create_access_key(UserName="nobody")["AccessKey"]

    def allow(unchecked: str) -> None:
        order = urllib.request.Request(
            f"{s3_endpoint}/moto-api/reset-auth", data=unchecked.encode(), headers={"Content-Type": "text/plain"}
        )
        with urllib.request.urlopen(order, timeout=30) as answer:
            assert json.load(answer)["status"] == "ok"

    allow("0")
    yield s3_endpoint, key["AccessKeyId"], key["SecretAccessKey"]
    allow("inf")


def test_wrong_credentials_and_missing_permission_are_told_apart(bucket: str, strict_endpoint, monkeypatch):
    endpoint, key_id, secret = strict_endpoint
    with pytest.raises(StoreRefused, match="does not accept the credentials"):
        ObjectRepository(f"s3://{endpoint}/{BUCKET}").versions(SPEC.name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key_id)
    with pytest.raises(StoreRefused, match=r"does not accept the credentials \(SignatureDoesNotMatch"):
        ObjectRepository(f"s3://{endpoint}/{BUCKET}").versions(SPEC.name)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    with pytest.raises(StoreRefused, match=r"not permitted to.*reading needs s3:ListBucket"):
        ObjectRepository(f"s3://{endpoint}/{BUCKET}").versions(SPEC.name)


@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
def test_endpoint_that_ignores_conditions_is_refused(header: str, bucket: str):
    repository = ObjectRepository(f"{bucket}/{header}")

    def drop(request, **_: object) -> None:
        if header in request.headers:
            del request.headers[header]

    repository._store._client.meta.events.register("before-send.s3", drop)
    with pytest.raises(StoreRefused, match=f"ignores the condition {header.replace('-', '')} of a write"):
        repository.publish(SPEC, fill)
    assert (
        boto3.client("s3", endpoint_url=repository._at.endpoint)
        .list_objects_v2(Bucket=BUCKET, Prefix=f"{header}/")
        .get("Contents")
        is None
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket", ("bucket", "", None)),
        ("s3://bucket/", ("bucket", "", None)),
        ("s3://my.bucket/some/where/", ("my.bucket", "some/where", None)),
        ("s3://http://127.0.0.1:9000/bucket/some//where", ("bucket", "some/where", "http://127.0.0.1:9000")),
        ("s3://https://minio.example:443/bucket", ("bucket", "", "https://minio.example:443")),
        ("s3://127.0.0.1:9000/bucket/x", ("bucket", "x", "http://127.0.0.1:9000")),
    ],
)
def test_location_is_read_as_tritonserver_reads_it(text: str, expected: tuple[str, str, str | None]):
    found = ObjectLocation.parse(text)
    assert (found.bucket, found.prefix, found.endpoint) == expected
    assert ObjectLocation.parse(str(found)) == found


@pytest.mark.parametrize(
    "text", ["s3://", "s3://ab", "s3://Bucket/x", "s3://bucket/a b", "s3://bucket/../x", "gs://b/x"]
)
def test_location_that_is_none_is_refused(text: str):
    with pytest.raises(RepositoryError, match="expected s3://BUCKET/PREFIX or s3://http://HOST:PORT/BUCKET/PREFIX"):
        ObjectLocation.parse(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repository", "s3://Bucket/x"], "expected s3://BUCKET/PREFIX"),
        (["--repository", "s3://bucket/x", "--store-timeout-s", "0"], "time-out of 0 s"),
        (["--store-timeout-s", "-1", "--repository", "s3://bucket/x"], "time-out of -1 s"),
    ],
)
def test_bad_option_is_refused_with_its_reason(arguments: list[str], message: str, capsys):
    with pytest.raises(SystemExit):
        main(["list", *arguments])
    assert message in capsys.readouterr().err
