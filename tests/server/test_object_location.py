"""What tritonserver is told of a repository in an object store, and what is read from its log."""

import pytest

from rfserve.server import startup_log
from rfserve.server.errors import RepositoryError
from rfserve.server.object_location import endpoint_address, triton_location


@pytest.mark.parametrize(
    ("location", "environment", "expected"),
    [
        ("s3://bucket/models", {}, "s3://bucket/models"),
        (
            "s3://bucket/models",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9000"},
            "s3://http://127.0.0.1:9000/bucket/models",
        ),
        (
            "s3://bucket",
            {"AWS_ENDPOINT_URL": "http://other:1", "AWS_ENDPOINT_URL_S3": "https://minio.example/"},
            "s3://https://minio.example:443/bucket",
        ),
        ("s3://http://a:1/bucket/x", {"AWS_ENDPOINT_URL": "http://b:2"}, "s3://http://a:1/bucket/x"),
    ],
)
def test_endpoint_of_the_environment_becomes_part_of_the_location(location, environment, expected):
    assert triton_location(location, environment) == expected


@pytest.mark.parametrize(
    ("location", "environment", "message"),
    [
        ("s3://Bucket/models", {}, "expected s3://BUCKET/PREFIX"),
        ("s3://bucket/models", {"AWS_ENDPOINT_URL": "minio:9000"}, "got 'minio:9000'; expected http"),
        ("s3://bucket/models", {"AWS_ENDPOINT_URL": "http://minio/s3"}, "expected http"),
    ],
)
def test_location_that_tritonserver_would_not_understand_is_refused(location, environment, message):
    with pytest.raises(RepositoryError, match=message):
        triton_location(location, environment)


def test_address_of_an_endpoint_is_known_when_the_location_names_it():
    assert endpoint_address("s3://http://127.0.0.1:9000/bucket/x") == ("127.0.0.1", 9000)
    assert endpoint_address("s3://bucket/x") is None


def test_reasons_are_read_from_the_log():
    # Lines of tritonserver 2.51.
    log = (
        "E1124 22:13:12.5 1 model_repository_manager.cc:724] \"failed to load model 'a': at least one version must be "
        "available under the version policy of model 'a'\"\n"
        "E1124 22:12:48.2 1 model_repository_manager.cc:1415] \"failed to poll model 'b': model not found in any model "
        'repository."\n'
        "E1124 22:12:50.1 1 model_lifecycle.cc:654] \"failed to load 'c' version 1: Internal: InvalidProtobuf\"\n"
        'E1124 22:12:52.4 1 tritonserver.cc:2607] "Internal: failed to load all models"\n'
    )
    failures = startup_log.model_failures(log)
    assert set(failures) == {"a", "b", "c"}
    assert [name for name, reason in failures.items() if startup_log.is_unpublished(reason)] == ["a"]
    assert failures["b"] == "model not found in any model repository."
    assert startup_log.startup_failure(log) is None
    assert startup_log.startup_failure('E1 tritonserver.cc:2607] "Invalid argument: no directory"') == (
        "Invalid argument: no directory"
    )
