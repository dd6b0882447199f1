"""`rfserve-export` as its users run it."""

import shutil
from pathlib import Path

import pytest

from rfserve.export.cli import main
from rfserve.export.repository import Repository


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


def add_foreign_file(repository: Path) -> None:
    (repository / "mel_features" / "1" / "notes.txt").write_text("hello")


def remove_version(repository: Path) -> None:
    shutil.rmtree(repository / "mel_features" / "1")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_graph, "model.onnx changed"),
        (damage_config, "configs/gpu.pbtxt is not what the spec and serving.json say"),
        (add_foreign_file, "notes.txt is not in the manifest"),
        (remove_version, "no version is published"),
    ],
)
def test_check_finds_what_changed(damage, message, repository: Path, capsys):
    damage(repository)
    code, out, _ = run(capsys, "check", "--repository", repository)
    assert code == 1
    assert message in out


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


def test_configure_mends_the_configuration(repository: Path, capsys):
    damage_config(repository)
    assert run(capsys, "configure", "--repository", repository)[0] == 0
    assert run(capsys, "check", "mel_features", "--repository", repository)[0] == 0


def test_manifest_holds_the_parity_figures(repository: Path):
    manifest = Repository(repository).manifest("localization_net", 1)
    assert manifest.parity is not None
    assert manifest.parity["cases"] == 5
    assert set(manifest.parity["worst"]) == {"positions", "uncertainties"}
    assert manifest.opset == 20
