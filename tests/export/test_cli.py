"""`rfserve-export` as its users run it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rfserve.export import pbtxt
from rfserve.export.cli import main
from rfserve.export.repository import Repository
from rfserve.export.spec import find


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    assert main(["write", "mel_features", "localization_net", "--repository", str(folder), "--variant", "tiny"]) == 1
    assert main(["write", "mel_features", "--repository", str(folder)]) == 0
    assert main(["write", "localization_net", "--repository", str(folder), "--variant", "tiny"]) == 0
    assert main(["write", "locate_spectrogram", "--repository", str(folder)]) == 0
    return folder


@pytest.fixture
def repository(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "repository"))


def test_written_models_are_listed_and_check(repository: Path, capsys):
    code, out, _ = run(capsys, "list", "--repository", repository)
    assert code == 0
    assert "untrained (seed 0)  tiny" in out
    assert out.count("     1  cpu,gpu") == 3
    code, out, _ = run(capsys, "check", "--repository", repository)
    assert code == 0
    assert out.count(": ok (version 1)") == 3


def damage_graph(repository: Path) -> None:
    file = repository / "mel_features" / "1" / "model.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def damage_config(repository: Path) -> None:
    file = repository / "mel_features" / "configs" / "gpu.pbtxt"
    file.write_text(file.read_text().replace("max_batch_size: 32", "max_batch_size: 4"))


def flip_a_high_bit(file: Path, index: int) -> None:
    content = bytearray(file.read_bytes())
    content[index] ^= 0x80
    file.write_bytes(content)


def damage_a_byte_of_the_manifest(repository: Path) -> None:
    flip_a_high_bit(repository / "mel_features" / "1" / "manifest.json", 100)


def damage_a_byte_of_a_config(repository: Path) -> None:
    flip_a_high_bit(repository / "mel_features" / "configs" / "gpu.pbtxt", -10)


def damage_a_byte_of_the_history(repository: Path) -> None:
    flip_a_high_bit(repository / "mel_features" / "serving.json", 100)


def remove_warm_up(repository: Path) -> None:
    (repository / "mel_features" / "warmup" / "raw_iq").unlink()


def empty_warm_up(repository: Path) -> None:
    (repository / "mel_features" / "warmup" / "raw_iq").write_bytes(b"")


def add_foreign_file(repository: Path) -> None:
    (repository / "mel_features" / "1" / "notes.txt").write_text("hello")


def remove_version(repository: Path) -> None:
    shutil.rmtree(repository / "mel_features" / "1")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_graph, "model.onnx changed"),
        (damage_config, "configs/gpu.pbtxt is not what the spec and serving.json say"),
        (damage_a_byte_of_the_manifest, "version 1: mel_features/1/manifest.json is damaged"),
        (damage_a_byte_of_a_config, "configs/gpu.pbtxt is not what the spec and serving.json say"),
        (damage_a_byte_of_the_history, "serving.json is damaged"),
        (remove_warm_up, "warmup/raw_iq is missing; write it with `rfserve-export configure`"),
        (empty_warm_up, "warmup/raw_iq is not what the spec and serving.json say"),
        (add_foreign_file, "notes.txt is not in the manifest"),
        (remove_version, "no version is published"),
    ],
)
def test_check_finds_what_changed(damage, message, repository: Path, capsys):
    damage(repository)
    code, out, _ = run(capsys, "check", "--repository", repository)
    assert code == 1
    assert message in out


def test_list_names_a_damaged_manifest(repository: Path, capsys):
    damage_a_byte_of_the_manifest(repository)
    code, _, err = run(capsys, "list", "--repository", repository)
    assert code == 1
    assert err.startswith("error: mel_features/1/manifest.json is damaged")


def test_failed_write_leaves_the_repository_and_says_why(repository: Path, tmp_path: Path, capsys):
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    before = sorted(str(f) for f in repository.rglob("*"))
    code, _, err = run(
        capsys, "write", "heimdall_net", "--checkpoint", tmp_path / "broken.pt", "--repository", repository
    )
    assert code == 1
    assert err.splitlines()[-1].startswith("error: broken.pt is not a PyTorch checkpoint")
    assert sorted(str(f) for f in repository.rglob("*")) == before


def test_version_that_exists_is_refused(repository: Path, capsys):
    code, _, err = run(capsys, "write", "mel_features", "--version", 1, "--repository", repository)
    assert code == 1
    assert "versions are immutable" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["write", "nothing"], "no served model 'nothing'"),
        (["write", "mel_features", "--variant", "tiny"], "it has one size"),
        (["write", "localization_net", "--variant", "huge"], "expected one of large, base, small, tiny"),
        (["write", "localization_net", "--encoder-order", "mbconv"], "it has no IQ encoder"),
        (["write", "locate"], "write iq_features, heimdall_net first"),
        (["list", "--repository", "nowhere"], "no model repository at nowhere"),
    ],
)
def test_bad_request_is_refused_with_its_reason(arguments, message, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert code == 1
    assert message in err
    assert not any(tmp_path.rglob("*.onnx"))


@pytest.mark.parametrize("damage", [damage_config, damage_a_byte_of_a_config, remove_warm_up, empty_warm_up])
def test_configure_mends_the_configuration(damage, repository: Path, capsys):
    damage(repository)
    assert run(capsys, "configure", "--repository", repository)[0] == 0
    assert run(capsys, "check", "mel_features", "--repository", repository)[0] == 0


def test_cores_of_the_machines_are_kept_and_place_the_model(repository: Path, capsys):
    def placement() -> tuple[int, str]:
        text = (repository / "mel_features" / "configs" / "cpu.pbtxt").read_text()
        config = pbtxt.parse(text)
        return config.instance_group[0].count, config.parameters["intra_op_thread_count"].string_value

    gpu = (repository / "mel_features" / "configs" / "gpu.pbtxt").read_text()
    assert placement() == (2, "1")
    assert run(capsys, "configure", "--cpu-cores", 9, "--repository", repository)[0] == 0
    assert placement() == (2, "4")
    assert run(capsys, "configure", "--repository", repository)[0] == 0
    assert placement() == (2, "4")
    assert run(capsys, "check", "mel_features", "--repository", repository)[0] == 0
    assert (repository / "mel_features" / "configs" / "gpu.pbtxt").read_text() == gpu
    code, _, error = run(capsys, "configure", "--cpu-cores", 0, "--repository", repository)
    assert code == 1
    assert "got 0 cores for cpu" in error
    assert run(capsys, "configure", "--cpu-cores", 2, "--repository", repository)[0] == 0
    assert placement() == (2, "1")


def test_manifest_holds_the_parity_figures(repository: Path):
    manifest = Repository(repository).manifest("localization_net", 1)
    assert manifest.parity is not None
    assert manifest.parity["cases"] == 5
    assert set(manifest.parity["worst"]) == {"positions", "uncertainties"}
    assert manifest.opset == 20


def copy_version(repository: Path, model: str, precision: str = "fp32") -> int:
    """Publish version 1 once more."""
    home = repository / model / "1"
    first = Repository(repository).manifest(model, 1)

    def fill(folder: Path):
        shutil.copy(home / "model.onnx", folder)
        return lambda number: replace(first, version=number, precision=precision)

    return Repository(repository).publish(find(model), fill).version


def test_versions_are_promoted_rolled_back_retired_and_remembered(repository: Path, capsys):
    where = ("--repository", repository)
    for version in (2, 3):
        assert copy_version(repository, "mel_features") == version
    assert run(capsys, "promote", "mel_features", 2, "--target", "gpu", *where)[0] == 0
    code, out, err = run(capsys, "promote", "mel_features", 1, *where)
    assert (code, out) == (0, "mel_features: cpu serves version 1\nmel_features: gpu serves version 1\n")
    assert "no --url: a running server serves it once it loads the model again" in err
    assert run(capsys, "rollback", "mel_features", *where)[1] == (
        "mel_features: cpu serves version 3\nmel_features: gpu serves version 2\n"
    )
    code, out, _ = run(capsys, "retire", "mel_features", 1, *where)
    assert (code, out) == (0, "mel_features/1 is retired; its number is not used again\n")
    _, out, _ = run(capsys, "history", "mel_features", *where)
    assert [line.split()[1:] for line in out.splitlines()] == [
        ["publish", "1", "-", "fp32", "gone"],
        ["publish", "2", "-", "fp32", "published"],
        ["publish", "3", "-", "fp32", "published"],
        ["promote", "2", "gpu", "fp32", "published"],
        ["promote", "1", "cpu,gpu", "fp32", "gone"],
        ["rollback", "2", "gpu", "fp32", "published"],
        ["rollback", "3", "cpu", "fp32", "published"],
        ["retire", "1", "-", "fp32", "gone"],
    ]
    _, out, _ = run(capsys, "list", *where)
    assert [line.split()[1:3] for line in out.splitlines() if "mel_features " in line] == [["2", "gpu"], ["3", "cpu"]]
    assert run(capsys, "check", "mel_features", *where)[0] == 0


def test_retired_number_is_never_used_again(repository: Path, capsys):
    where = ("--repository", repository)
    for _ in range(2):
        copy_version(repository, "mel_features")
    assert run(capsys, "promote", "mel_features", 1, *where)[0] == 0
    assert run(capsys, "retire", "mel_features", 3, *where)[0] == 0
    code, _, err = run(capsys, "write", "mel_features", "--version", 3, *where)
    assert code == 1
    assert "mel_features/3 was retired and a number is never used twice; leave --version out to get 4" in err
    assert copy_version(repository, "mel_features") == 4


def test_version_that_is_served_as_the_newest_is_said(repository: Path, capsys):
    where = ("--repository", repository)
    words = "nothing is promoted for {}, so servers that start serve version {} from now on"
    code, _, err = run(capsys, "write", "mel_features", *where)
    assert code == 0
    assert words.format("cpu and gpu", 2) in err
    assert run(capsys, "promote", "mel_features", 1, "--target", "cpu", *where)[0] == 0
    assert words.format("gpu", 3) in run(capsys, "write", "mel_features", *where)[2]
    assert run(capsys, "promote", "mel_features", 1, *where)[0] == 0
    assert "nothing is promoted" not in run(capsys, "write", "mel_features", *where)[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["promote", "mel_features", 7], "mel_features/7 is not published"),
        (["promote", "mel_features", 2], "mel_features/2 is int8, but gpu serves fp32 or fp16"),
        (["promote", "mel_features", 1, "--url", "http://127.0.0.1:8000"], "expected host:port of its gRPC endpoint"),
        (["promote", "mel_features", 1, "--url", "a:1", "--admin-key-file", "none"], "cannot read the administrator's"),
        (["promote", "mel_features", 1, "--url", "a:1", "--timeout-s", "0"], "expected above 0"),
        (["rollback", "locate_spectrogram"], "serves version 1, and nothing it served before is left; promote one of"),
        (["rollback", "heimdall_net"], "heimdall_net has no version"),
        (["retire", "mel_features", 1], "mel_features/1 is what gpu serves; promote another version first"),
        (["retire", "mel_features", 2], "mel_features/2 is what cpu serves; promote another version first"),
        (["retire", "mel_features", 7], "mel_features/7 is not published"),
        (["retire", "locate_spectrogram", 1], "locate_spectrogram/1 is the only version"),
        (["history", "heimdall_net"], "holds no history of heimdall_net"),
        (["diff", "mel_features", 1, 2], "no versions with positions of their own"),
    ],
)
def test_release_that_cannot_be_is_refused_and_changes_nothing(arguments, message, repository: Path, capsys):
    copy_version(repository, "mel_features", "int8")
    before = {f: f.read_bytes() for f in repository.rglob("*") if f.is_file() and f.name != ".lock"}
    command = [*arguments, "--repository", repository]
    if arguments[:3] == ["promote", "mel_features", 2]:
        command += ["--target", "gpu"]
    code, _, err = run(capsys, *command)
    assert code == 1
    assert message in err
    assert err.count("\n") == 1
    assert {f: f.read_bytes() for f in repository.rglob("*") if f.is_file() and f.name != ".lock"} == before


def test_precision_decides_who_serves_a_version_unless_forced(repository: Path, capsys):
    where = ("--repository", repository)
    copy_version(repository, "mel_features", "int8")
    assert run(capsys, "promote", "mel_features", 2, *where)[1] == "mel_features: cpu serves version 2\n"
    forced = run(capsys, "promote", "mel_features", 2, "--target", "gpu", "--force", *where)
    assert forced[1] == "mel_features: gpu serves version 2\n"


def test_list_shows_what_is_left_when_the_promoted_version_is_gone(repository: Path, capsys):
    copy_version(repository, "mel_features")
    run(capsys, "promote", "mel_features", 1, "--target", "cpu", "--repository", repository)
    remove_version(repository)
    code, out, _ = run(capsys, "list", "--repository", repository)
    assert code == 0
    assert "mel_features            2  gpu " in out
    assert "version 1 is promoted for cpu but not published" in run(capsys, "check", "--repository", repository)[1]
