"""A placement that was tuned: written into one target's configuration, kept by what follows, and known to `check`."""

import json
import shutil
from pathlib import Path

import pytest

from rfserve.export import canary_requests, pbtxt
from rfserve.export.cli import main
from rfserve.export.publication import Source, publish
from rfserve.export.repository import Repository
from rfserve.export.serving_copy import ServingCopy
from rfserve.export.spec import find
from rfserve.release.placement import Placement as PodPlacement

MODEL = "mel_features"


@pytest.fixture
def folder(small_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_model, tmp_path / "repository"))


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def place(capsys, folder, *arguments):
    return run(capsys, "place", MODEL, "--target", "cpu", *arguments, "--repository", folder)


def placed(folder: Path, name: str) -> tuple[int, str, list[int]]:
    config = pbtxt.parse((folder / MODEL / "configs" / f"{name}.pbtxt").read_text())
    threads = config.parameters["intra_op_thread_count"].string_value
    return config.instance_group[0].count, threads, list(config.dynamic_batching.preferred_batch_size)


def test_placement_is_written_for_its_target_and_kept(folder: Path, capsys):
    before = {name: placed(folder, name) for name in pbtxt.CONFIGURATIONS}
    code, out, _ = place(capsys, folder, "--instances", 3, "--threads", 2, "--joined-rows", 4)
    assert code == 0
    assert "tuned for cpu: 3 instances, 2 threads each, 4 rows joined" in out
    tuned = before | {"cpu": (3, "2", [4])}
    assert {name: placed(folder, name) for name in pbtxt.CONFIGURATIONS} == tuned
    code, out, _ = run(capsys, "check", "--repository", folder)
    assert code == 0
    assert f"{MODEL}: ok (version 1; tuned for cpu: 3 instances" in out
    for keeping in (["configure"], ["configure", "--cpu-cores", 2]):
        assert run(capsys, *keeping, "--repository", folder)[0] == 0
        assert placed(folder, "cpu") == tuned["cpu"]
    publish(find(MODEL), Repository(folder), Source(), version=None, report=lambda _: None)
    assert placed(folder, "cpu") == tuned["cpu"]
    assert run(capsys, "check", MODEL, "--repository", folder)[0] == 0
    # What was tuned by hand in the file alone is still found.
    file = folder / MODEL / "configs" / "cpu.pbtxt"
    file.write_text(file.read_text().replace("count: 3", "count: 4"))
    assert run(capsys, "check", MODEL, "--repository", folder)[0] == 1
    assert place(capsys, folder, "--spec")[0] == 0
    assert {name: placed(folder, name) for name in pbtxt.CONFIGURATIONS} == before


def test_pods_run_what_was_tuned(folder: Path, tmp_path: Path, capsys):
    """Those that serve a copy, and those that a release gives another version."""
    assert place(capsys, folder, "--instances", 3, "--threads", 2, "--joined-rows", 4)[0] == 0
    source = Repository(folder)
    asked = tmp_path / "asked"
    copy = ServingCopy(source=source, folder=tmp_path / "copy", target="cpu", models=(MODEL,), canaries=asked)
    copy.update(anew=True)
    assert placed(tmp_path / "copy", "cpu") == (3, "2", [4])
    (canary,) = json.loads((asked / canary_requests.INDEX).read_text())["canaries"]
    assert canary["instances"] == 3
    assert all(shape[0] == 4 for shape, _ in canary["outputs"].values())
    pod = PodPlacement(model=MODEL, versions=(1,), configuration=None, configuration_name="cpu")
    configured = pod.rehearsing(source, find(MODEL), 1, "rehearsal")
    assert configured.parameters["intra_op_thread_count"].string_value == "2"
    assert list(configured.dynamic_batching.preferred_batch_size) == [4]


def test_placement_is_of_the_machines_it_was_tuned_on(folder: Path, capsys):
    assert run(capsys, "configure", "--cpu-cores", 16, "--repository", folder)[0] == 0
    of_sixteen = placed(folder, "cpu")
    assert place(capsys, folder, "--instances", 8, "--threads", 2, "--joined-rows", 32)[0] == 0
    assert placed(folder, "cpu") == (8, "2", [])
    assert run(capsys, "configure", "--cpu-cores", 8, "--repository", folder)[0] == 0
    assert placed(folder, "cpu")[:2] == (2, "4")
    assert of_sixteen[0] == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--instances", 1, "--threads", 2, "--joined-rows", 4], "instances from 2"),
        (["--instances", 2, "--threads", 0, "--joined-rows", 4], "threads from 1"),
        (["--instances", 2, "--threads", 1, "--joined-rows", 33], "expected 1 to 32"),
        (["--instances", 2, "--threads", 1, "--joined-rows", 0], "expected 1 or more"),
        (["--instances", 2], "together, or --spec alone"),
        (["--spec", "--instances", 2], "together, or --spec alone"),
        ([], "together, or --spec alone"),
    ],
)
def test_placement_that_triton_cannot_serve_changes_nothing(folder: Path, capsys, arguments, said):
    before = {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    code, _, error = place(capsys, folder, *arguments)
    assert code == 1
    assert said in error
    assert {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == before


def test_placement_is_of_models_with_a_graph(folder: Path, capsys):
    code, _, error = run(capsys, "place", "locate", "--target", "cpu", "--spec", "--repository", folder)
    assert code == 1
    assert "place its steps: iq_features, heimdall_net" in error
