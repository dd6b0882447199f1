"""A run in its folder: what it refuses before it takes one, what a kill, a full disk or a failed export leave of it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rss_walks import walk, write_table

from rfserve.export import checkpoint as checkpoints
from rfserve.export.cli import main
from rfserve.export.errors import DataError, RepositoryError
from rfserve.export.repository import Repository
from rfserve.export.spec import GRAPHS
from rfserve.export.training.rss_module import Recipe
from rfserve.export.training.rss_run import Run, Trained, train
from rfserve.export.training.split import by_place

pytestmark = pytest.mark.usefixtures("brief_gate")

EVENTS = walk(80, receivers=5, shadowing_db=2.0)
SPLIT = by_place(EVENTS)
QUICK = Recipe(epochs=2, batch=32, made=0)


def run(folder: Path, **changed: object) -> Trained:
    asked = Run(spec=GRAPHS["heimdall_net"], split=SPLIT, recipe=QUICK, folder=folder, threads=1, device="cpu")
    return train(replace(asked, **changed), lambda _: None)


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def published_state(folder: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoints.read(folder / "last.ckpt").state)


def test_run_that_was_over_says_the_same_when_gone_on_with(tmp_path):
    first = run(tmp_path)
    said = result(tmp_path)
    again = run(tmp_path, resume=True)
    assert again == first
    assert first.figures.keys() >= {"train_nll", "held_median_m"}
    assert result(tmp_path) == said
    # Killed after its last epoch, before anything else was written.
    for name in ("result.json", "curves.csv", "curves.svg"):
        (tmp_path / name).unlink()
    again = run(tmp_path, resume=True)
    assert again.weights_sha256 == first.weights_sha256
    assert again.figures == first.figures
    assert len((tmp_path / "curves.csv").read_text().splitlines()) == 1 + QUICK.epochs


def test_failed_export_loses_nothing_and_is_made_up_for(tmp_path):
    (tmp_path / "file").write_text("no folder")
    folder = tmp_path / "run"
    with pytest.raises(RepositoryError, match="cannot write to the repository"):
        run(folder, repository=Repository(tmp_path / "file"))
    said = result(folder)
    assert said["figures"].keys() >= {"train_nll", "held_median_m"}
    assert (folder / "curves.csv").exists()
    assert (folder / "curves.svg").exists()
    trained = run(folder, repository=Repository(tmp_path / "models"), resume=True)
    assert trained.manifest is not None
    assert trained.manifest.version == 1
    assert result(folder) == said
    assert trained.weights_sha256 == said["weights_sha256"]


def test_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path):
    """A disk that fills up while the second is written: files of this process may not grow beyond so much."""
    code = """
import resource, signal, sys, torch
from rfserve.export.errors import DataError
from rfserve.export.training.durable_checkpoints import DurableCheckpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = sys.argv[1]
DurableCheckpoints().save_checkpoint({"epoch": 1, "x": torch.zeros(10)}, file)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    DurableCheckpoints().save_checkpoint({"epoch": 2, "x": torch.zeros(1_000_000)}, file)
except DataError as error:
    print(error)
"""
    file = tmp_path / "last.ckpt"
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert "File too large; what was there is whole: make room and go on with --resume" in done.stdout
    assert torch.load(file)["epoch"] == 1
    assert list(tmp_path.iterdir()) == [file]


def test_checkpoint_is_written_beside_its_place_and_never_in_the_folder_for_temporary_files(tmp_path, monkeypatch):
    """That may be on another disk, from which a file is copied over the one before."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "there is none"))
    run(tmp_path / "run")
    assert published_state(tmp_path / "run")


def test_torn_checkpoint_says_what_to_do(tmp_path):
    first = run(tmp_path)
    checkpoint = tmp_path / "last.ckpt"
    whole = checkpoint.read_bytes()
    for torn in (whole[: len(whole) // 2], b""):
        checkpoint.write_bytes(torn)
        with pytest.raises(DataError, match=r"last\.ckpt is not a PyTorch checkpoint.*; delete .*begins anew"):
            run(tmp_path, resume=True)
    checkpoint.unlink()
    assert run(tmp_path, resume=True).weights_sha256 == first.weights_sha256


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--epochs", "0"], "epochs: got 0; expected 1 or more"),
        (["--seed", "-1"], "seed: got -1; expected 0 to 4294967295"),
        (["--seed", str(2**32)], "seed: got 4294967296; expected 0 to 4294967295"),
        (["--threads", "0"], "threads: got 0; expected 1 or more"),
        (["--made", "-1"], "made: got -1.0; expected a finite number, 0 or more"),
        (["--made", "nan"], "made: got nan; expected a finite number, 0 or more"),
        (["--made-far", "7"], "made-far: got 7.0; expected 0 to 1"),
        (["--sigma-factor", "0"], "sigma-factor: got 0.0; expected a finite number above 0"),
        (["--everything", "--since", "2022-07-06"], "--everything and --since 2022-07-06: expected one of them"),
        (["--since", "nonsense"], "since: got 'nonsense'; expected a date, YYYY-MM-DD"),
        (["--since", "2022-7-5"], "since: got '2022-7-5'; expected a date, YYYY-MM-DD"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_folder_is_taken(tmp_path, capsys, options, reason):
    data, folder = write_table(tmp_path / "data", EVENTS), tmp_path / "run"
    assert main(["train", "heimdall_net", str(folder), "--data", str(data), "--device", "cpu", *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {reason}")
    assert not folder.exists()


def test_warm_up_of_a_single_step_is_no_division_by_zero(tmp_path):
    batches = -(-len(SPLIT.learned) // QUICK.batch)
    assert batches == 2
    trained = run(tmp_path, recipe=replace(QUICK, epochs=5, warm_up_share=0.1))
    assert trained.figures["train_nll"] < 100


def test_interrupt_says_how_to_go_on(tmp_path):
    """A real process, and Ctrl-C."""
    data, folder = write_table(tmp_path / "data", EVENTS), tmp_path / "run"
    command = [sys.executable, "-m", "rfserve.export.cli", "train", "heimdall_net", str(folder), "--data", str(data)]
    options = ["--made", "0", "--epochs", "100000", "--threads", "1", "--device", "cpu"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (folder / "last.ckpt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.splitlines()[-1].startswith("error: stopped after ")
    assert said.splitlines()[-1].endswith(" epochs; go on with --resume")
    assert published_state(folder)


def test_other_names_threads_or_device_are_another_run(tmp_path):
    run(tmp_path)
    renamed = replace(SPLIT, learned=tuple(replace(e, names=("r99", *e.names[1:])) for e in SPLIT.learned))
    louder = replace(SPLIT, held_out=tuple(replace(e, rss_db=e.rss_db + 1) for e in SPLIT.held_out))
    for changed, named in (({"split": renamed}, "names_sha256"), ({"split": louder}, "held_out_sha256")):
        with pytest.raises(DataError, match=f"begun with other {named};"):
            run(tmp_path, resume=True, **changed)
    with pytest.raises(DataError, match="begun with other threads;"):
        run(tmp_path, resume=True, threads=2)
    said = json.loads((tmp_path / "asked.json").read_text())
    assert (said["threads"], said["device"]) == (1, "cpu")
    (tmp_path / "asked.json").write_text(json.dumps(said | {"device": "gpu"}))
    with pytest.raises(DataError, match="begun with other device;"):
        run(tmp_path, resume=True)


def test_folder_of_an_earlier_version_is_gone_on_with(tmp_path):
    first = run(tmp_path)
    said = json.loads((tmp_path / "asked.json").read_text())
    newer = {"names_sha256", "held_out_sha256", "threads", "device"}
    (tmp_path / "asked.json").write_text(json.dumps({name: said[name] for name in said.keys() - newer}))
    assert run(tmp_path, resume=True).weights_sha256 == first.weights_sha256
