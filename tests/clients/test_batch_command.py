import json
import shutil
import tarfile

import pytest

from rfserve.clients.cli import main


@pytest.fixture
def folder(collection, tmp_path):
    """Three events, the second of which was cut short."""
    for name in ("a", "b", "c"):
        shutil.copytree(collection.parent, tmp_path / name)
    (tmp_path / "b" / "synthetic_R2.sigmf-data").write_bytes(b"123")
    return tmp_path


def lines(capsys):
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines()], err


def test_batch_writes_a_line_for_each_event_and_fails_when_one_has_no_fix(serve, answer, folder, capsys):
    server = serve(answer())
    assert main(["batch", str(folder), "--url", server.url]) == 1
    (a, b, c), err = lines(capsys)
    assert [line["event"] for line in (a, b, c)] == [
        str(folder / name / "synthetic.sigmf-collection") for name in ("a", "b", "c")
    ]
    assert a["latitude_deg"] == c["latitude_deg"] == pytest.approx(45.1, abs=2e-6)
    assert a["receivers"] == [f"synthetic_R{i}" for i in (1, 2, 3, 4)]
    assert a["start_utc"].startswith("2026-01-01T12:00:00.")
    assert (b["error"], "synthetic_R2" in b["reason"]) == ("RecordingError", True)
    assert "1 of 3 events have no fix" in err
    assert len(server.requests) == 2


def test_batch_succeeds_when_what_failed_may_be_left_out(serve, answer, folder, capsys):
    url = serve(answer()).url
    assert main(["batch", str(folder), "--url", url, "--minimum-receivers", "3", "--unordered"]) == 0
    found, _ = lines(capsys)
    left_out = {line["event"].split("/")[-2]: [d["name"] for d in line["dropped"]] for line in found}
    assert left_out == {"a": [], "b": ["synthetic_R2"], "c": []}


def test_batch_takes_single_recordings_for_a_model_of_one_receiver(serve, answer, folder, capsys):
    url = serve(answer()).url
    metas = sorted(str(f) for f in (folder / "a").glob("*.sigmf-meta"))
    assert main(["batch", *metas, "--url", url, "--model", "locate_spectrogram", "--concurrency", "2"]) == 0
    found, _ = lines(capsys)
    assert [line["event"] for line in found] == metas


def test_batch_says_when_a_folder_holds_no_event(tmp_path, capsys):
    assert main(["batch", str(tmp_path), "--url", "127.0.0.1:1"]) == 1
    assert "holds no collection, archive or subfolder of recordings" in capsys.readouterr().err


def test_batch_takes_what_watch_would_find_in_a_folder_however_deep(serve, answer, folder, capsys):
    deep = folder / "season" / "deep"
    (folder / "a").rename(folder / "x")
    deep.parent.mkdir()
    (folder / "x").rename(deep)
    next(deep.glob("*.sigmf-collection")).unlink()
    (folder / "c" / "synthetic.sigmf-collection").unlink()
    (folder / "c" / "synthetic_R2.sigmf-meta").unlink()
    with tarfile.open(folder / "season" / "one.sigmf", "w") as archive:
        for path in deep.iterdir():
            archive.add(path, path.name)
    (folder / "stray.wav").write_bytes(b"")
    url = serve(answer()).url
    assert main(["batch", str(folder), "--url", url]) == 1
    (b, c, in_season, one), err = lines(capsys)
    assert [line["event"] for line in (b, c, in_season, one)] == [
        str(folder / name) for name in ("b/synthetic.sigmf-collection", "c", "season/deep", "season/one.sigmf")
    ]
    assert len(in_season["receivers"]) == len(one["receivers"]) == 4
    # A fix from the others would be another fix.
    assert "c/ lacks synthetic_R2.sigmf-meta" in c["reason"]
    assert "stray.wav and the like are no events" in err
    assert main(["batch", str(folder), "--url", url, "--minimum-receivers", "3"]) == 0
    left_out = [[d["name"] for d in line["dropped"]] for line in lines(capsys)[0]]
    assert left_out == [["synthetic_R2"], ["synthetic_R2"], [], []]
