"""What one repository serves, published in another."""

import boto3
import pytest

from rfserve.export.cli import main
from rfserve.export.commands.repository_option import repository_at
from rfserve.export.manifest import Manifest
from rfserve.export.repository import Repository, version_files
from rfserve.export.serving import Event
from rfserve.export.spec import MODELS, find

SPEC = find("mel_features")


def publish(repository, content, precision="fp32") -> int:
    def fill(folder):
        (folder / "model.onnx").write_bytes(content)
        files = version_files(folder)
        return lambda n: Manifest(model=SPEC.name, version=n, weights="none", files=files, precision=precision)

    return repository.publish(SPEC, fill).version


def copied(capsys, *arguments) -> tuple[int, list[str], str]:
    code = main(["copy", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


@pytest.fixture
def source(tmp_path) -> Repository:
    """Of three versions: the first is promoted for the CPU, the last is a GPU's."""
    repository = Repository(tmp_path / "source")
    for content, precision in ((b"one", "fp32"), (b"two", "fp32"), (b"three", "fp16")):
        publish(repository, content, precision)
    event = Event(action="promote", version=1, targets=("cpu",))
    repository.change_serving(SPEC, lambda state: state.with_event(event))
    return repository


def test_every_model_comes_to_a_bucket_as_it_is(repository, s3_endpoint, capsys):
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket="copies")
    location = f"s3://{s3_endpoint}/copies/models"
    code, lines, _ = copied(capsys, "all", "--from", repository, "--repository", location)
    assert code == 0
    assert lines == [f"{location}/{name}/1" for name in MODELS]
    for name in MODELS:
        assert repository_at(location).manifest(name, 1) == Repository(repository).manifest(name, 1)
    assert main(["check", "--repository", location]) == 0
    capsys.readouterr()
    assert copied(capsys, "all", "--from", repository, "--repository", location)[1] == [f"{n} was there" for n in lines]


def test_copied_is_what_some_target_serves_under_its_own_number(source, tmp_path, capsys):
    there = Repository(tmp_path / "there")
    assert copied(capsys, SPEC.name, "--from", source.folder, "--repository", there.folder)[0] == 0
    assert there.versions(SPEC.name) == [1, 3]
    assert (there.folder / SPEC.name / "3" / "model.onnx").read_bytes() == b"three"
    # 2 is below what there is.
    code, lines, _ = copied(capsys, SPEC.name, "--version", 2, "--from", source.folder, "--repository", there.folder)
    assert (code, lines) == (0, [f"{there.folder}/{SPEC.name}/4"])
    assert (there.folder / SPEC.name / "4" / "model.onnx").read_bytes() == b"two"


def test_number_of_a_retired_version_is_not_used_again(source, tmp_path, capsys):
    there = Repository(tmp_path / "there")
    publish(there, b"zero")
    publish(there, b"other")
    event = Event(action="promote", version=1, targets=("cpu", "gpu"))
    there.change_serving(SPEC, lambda state: state.with_event(event))
    there.retire(SPEC, 2)
    code, lines, _ = copied(capsys, SPEC.name, "--version", 2, "--from", source.folder, "--repository", there.folder)
    assert (code, lines) == (0, [f"{there.folder}/{SPEC.name}/3"])


def test_version_that_is_damaged_is_not_copied(source, tmp_path, capsys):
    (source.folder / SPEC.name / "1" / "model.onnx").write_bytes(b"0ne")
    code, _, error = copied(capsys, SPEC.name, "--from", source.folder, "--repository", tmp_path / "there")
    assert code == 1
    assert "mel_features/1 in" in error
    assert "model.onnx changed" in error
    assert not (tmp_path / "there" / SPEC.name / "1").exists()


def test_ensemble_without_its_steps_is_not_copied(repository, tmp_path, capsys):
    code, _, error = copied(capsys, "locate", "--from", repository, "--repository", tmp_path / "there")
    assert code == 1
    assert "locate runs iq_features, heimdall_net, of which" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("all", "--version", "1"), "one at a time"),
        (("all", "--repository", "SOURCE"), "twice"),
        (("mel_features", "--version", "9"), "mel_features/9 is not published"),
        (("iq_features",), "iq_features has no version"),
    ],
)
def test_copy_that_cannot_be_says_why(arguments, said, source, tmp_path, capsys):
    given = [str(source.folder) if a == "SOURCE" else a for a in arguments]
    where = [] if "--repository" in given else ["--repository", str(tmp_path / "there")]
    code, _, error = copied(capsys, *given, *where, "--from", source.folder)
    assert code == 1
    assert said in error


def test_newest_version_is_promoted_by_that_word(repository, tmp_path, capsys):
    there = Repository(tmp_path / "there")
    publish(there, b"no graph")
    assert copied(capsys, SPEC.name, "--from", repository, "--repository", there.folder)[0] == 0
    assert main(["promote", SPEC.name, "newest", "--repository", str(there.folder)]) == 0
    assert "cpu serves version 2" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["promote", SPEC.name, "latest", "--repository", str(there.folder)])
    assert "expected a version's number, or newest" in capsys.readouterr().err
