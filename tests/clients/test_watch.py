"""The watch in its own process, against servers that come and go, and its parts where a process cannot show them."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import grpc
import pytest
from ports import free_port

from rfserve.clients.cli import main
from rfserve.clients.errors import ClientError, ModelUnavailable, RecordingError, ServerUnavailable
from rfserve.clients.synthetic_event import SyntheticEvent, write
from rfserve.clients.watch import folder as watched
from rfserve.clients.watch.folder import Rules
from rfserve.clients.watch.journal import Journal
from rfserve.clients.watch.leftovers import Leftovers
from rfserve.clients.watch.watcher import MOST_SETBACKS, Pace, Watcher

QUICK = ("--settle-s", "0.1", "--poll-s", "0.05", "--timeout-s", "2")
STATE = "rfserve-fixes.jsonl"


@pytest.fixture
def inbox(tmp_path):
    path = tmp_path / "inbox"
    path.mkdir()
    return path


@pytest.fixture
def bring(collection, inbox):
    """Copy the synthetic event into the folder, as a subfolder of its own."""

    def make(name):
        shutil.copytree(collection.parent, inbox / name)
        return f"{name}/synthetic.sigmf-collection"

    return make


@pytest.fixture
def watch(inbox):
    """Start a watcher of the folder; killed at the end."""
    running = []

    def start(url, *options):
        command = [sys.executable, "-m", "rfserve.clients.cli", "watch", str(inbox), "--url", url, *QUICK, *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def once(inbox, capsys):
    """Look once; the exit code, standard output and standard error."""

    def look(url, *options):
        code = main(["watch", str(inbox), "--once", "--url", url, *QUICK, *options])
        return code, *capsys.readouterr()

    return look


@pytest.fixture
def server_url(serve, answer):
    """A server that answers."""
    return serve(answer()).url


@pytest.fixture
def stumble(serve, answer, refuse):
    """A server that refuses the first call with a status and a text."""
    return lambda status, text: serve(refuse(status, text), answer()).url


def lines(inbox):
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(text) for text in (inbox / STATE).read_text().splitlines()]
    return []


def until(true, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def located(inbox):
    return Counter(line["event"] for line in lines(inbox) if line["outcome"] == "fix")


def test_events_are_located_as_they_arrive_and_sigterm_ends_it(inbox, bring, watch, serve, answer):
    server = serve(answer())
    first = bring("a")
    process = watch(server.url)
    until(lambda: first in located(inbox))
    second = bring("b")
    until(lambda: second in located(inbox))
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (0, "")
    assert [text.split(" ")[1] for text in out.splitlines()] == [f"{first}:", f"{second}:"]
    assert "45.099998°, 7.600000°" in out
    assert "73 m north, 49 m east" in out
    assert len(server.requests) == 2


def test_event_is_located_once_across_restarts(inbox, bring, watch, serve, answer):
    server = serve(answer())
    bring("a")
    for _ in range(2):
        assert watch(server.url, "--once").wait(20) == 0
    bring("b")
    assert watch(server.url, "--once").wait(20) == 0
    assert set(located(inbox).values()) == {1}
    assert len(lines(inbox)) == len(server.requests) == 2


def test_nothing_is_lost_when_the_server_comes_late_and_goes_away(inbox, bring, watch, serve, answer):
    port = free_port()
    names = [bring("a")]
    process = watch(f"127.0.0.1:{port}", "--timeout-s", "0.5")
    waited_for(process, " waits: ")
    assert lines(inbox) == []
    first = serve(answer(), port=port)
    waited_for(process, "the server answers again")
    until(lambda: names[0] in located(inbox))
    first.stop()
    names += [bring("b"), bring("c")]
    waited_for(process, " waits: ")
    assert len(lines(inbox)) == 1
    serve(answer(), port=port)
    until(lambda: len(lines(inbox)) == 3)
    process.terminate()
    assert process.wait(10) == 0
    assert located(inbox) == Counter(names)


def waited_for(process, text):
    """Read what a watcher says until it says this; in between only gRPC speaks: one line each way, not one a try."""
    while text not in (found := process.stderr.readline()):
        assert found, "it ended"
        assert " waits: " not in found


def test_every_event_is_in_the_file_once_when_the_watcher_is_killed_again_and_again(inbox, bring, watch, serve, answer):
    server = serve(answer())
    names = [bring(f"e{i}") for i in range(8)]
    kills = 0
    for pause_s in (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4):
        process = watch(server.url, "--settle-s", "0")
        asked = len(server.requests)
        until(lambda asked=asked, p=process: len(server.requests) > asked or len(located(inbox)) == 8 or p.poll())
        time.sleep(pause_s / 10)
        process.kill()
        process.wait()
        kills += 1
    assert watch(server.url, "--once").wait(20) == 0
    assert located(inbox) == Counter(names)
    assert kills == 8


@pytest.mark.parametrize("step", ["asked", "torn", "written"])
def test_event_is_in_the_file_once_when_the_watcher_dies(inbox, bring, serve, answer, step):
    """Killed after the answer and before its line; within the line; after it, before anybody was told."""
    server = serve(answer())
    name = bring("a")
    dies = {
        "asked": "Journal.append = lambda *_: os._exit(9)",
        "torn": "os.pwrite = lambda f, c, at: (os.lseek(f, at, 0), os.write(f, c[:40]), os._exit(9))",
        "written": "W._is_back = lambda *_: os._exit(9)",
    }
    script = (
        "import os, sys\nfrom rfserve.clients.watch.journal import Journal\n"
        "from rfserve.clients.watch.watcher import Watcher as W\n"
        f"from rfserve.clients.cli import main\n{dies[step]}\nmain(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", script, "watch", str(inbox), "--once", "--url", server.url, *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (9, "")
    assert (inbox / STATE).read_text().count("\n") == (1 if step == "written" else 0)
    assert main(["watch", str(inbox), "--once", "--url", server.url, *QUICK]) == 0
    assert located(inbox) == Counter([name])
    assert len(server.requests) == (1 if step == "written" else 2)
    # The same event asked again is the same request.
    assert len({r.id for r in server.requests}) == 1


def test_bad_event_is_noted_with_its_reason_and_tried_again_when_it_changes(inbox, bring, collection, once, server_url):
    url = server_url
    bring("bad")
    data = inbox / "bad" / "synthetic_R2.sigmf-data"
    data.write_bytes(data.read_bytes()[:-4])
    bring("good")
    code, out, _ = once(url)
    assert code == 1
    assert "bad/synthetic.sigmf-collection: failed: synthetic_R2" in out
    outcomes = {line["event"]: line["outcome"] for line in lines(inbox)}
    assert outcomes == {"bad/synthetic.sigmf-collection": "failed", "good/synthetic.sigmf-collection": "fix"}
    assert once(url)[0] == 0
    assert len(lines(inbox)) == 2
    assert once(url, "--retry-failed")[0] == 1
    assert len(lines(inbox)) == 3
    shutil.copy(collection.parent / data.name, data)
    assert once(url)[0] == 0
    assert located(inbox) == Counter(list(outcomes))


@pytest.mark.parametrize(
    "case",
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape", False),
        (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size", True),
        (grpc.StatusCode.INTERNAL, "Stub process 'heimdall_net_0_1' is not healthy.", True),
        (grpc.StatusCode.UNAVAILABLE, "Request for unknown model: 'locate' is not found", True),
    ],
)
def test_only_what_the_event_is_to_blame_for_is_noted(inbox, bring, once, stumble, case):
    status, text, waits = case
    url = stumble(status, text)
    bring("a")
    assert once(url)[0] == 1
    assert len(lines(inbox)) == (0 if waits else 1)
    assert once(url)[0] == 0
    assert bool(located(inbox)) == waits


def test_event_waits_until_all_of_its_files_are_there_and_still(inbox, collection, watch, serve, answer):
    server = serve(answer())
    process = watch(server.url, "--settle-s", "0.4")
    files = sorted(p for p in collection.parent.iterdir() if p.suffix.startswith(".sigmf"))
    for path in files:
        shutil.copy(path, inbox)
        time.sleep(0.1)
        assert lines(inbox) == []
    until(lambda: located(inbox))
    process.terminate()
    assert process.wait(10) == 0
    assert len(server.requests) == 1


def test_incomplete_event_is_named_when_looking_once(inbox, bring, once, serve, answer):
    bring("a")
    (inbox / "a" / "synthetic_R3.sigmf-data").unlink()
    code, _, err = once(serve(answer()).url)
    assert code == 0
    assert "a/synthetic.sigmf-collection waits: lacks synthetic_R3.sigmf-data" in err
    assert lines(inbox) == []


def put(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")


def scan(inbox, **rules):
    return {a.name: ([p.name for p in a.recordings], list(a.missing)) for a in watched.scan(inbox, Rules(**rules))}


def test_subfolder_without_a_collection_is_an_event(inbox):
    put(inbox / "e1", "a.cu8", "a.json", "b.wav", "c.sigmf-meta", "c.sigmf-data", ".hidden.cu8")
    put(inbox / "e2", "a.sigmf-data", "b.cu8.part")
    put(inbox / "e3", "notes.txt")
    put(inbox / ".e4", "a.cu8")
    assert scan(inbox) == {
        "e1/": (["a.cu8", "b.wav", "c.sigmf-meta"], []),
        "e2/": (["a.sigmf-data"], ["b.cu8.part", "a.sigmf-meta"]),
    }
    assert scan(inbox, least_receivers=5)["e1/"][1] == ["2 more receivers"]
    assert scan(inbox, pattern="*2").keys() == {"e2/"}


@pytest.mark.parametrize("late", [".b.cu8.Xy12aB", ".b.sigmf-data.Xy12aB", ".b.wav.part"])
def test_recording_that_rsync_still_writes_is_waited_for(inbox, late):
    import re

    put(inbox / "e1", "a.cu8", "a.json", late)
    put(inbox, "1_a.cu8", ".1_" + late[1:], "2_a.cu8")
    rules = {"group": re.compile(r"^(\d)_"), "pattern": "*[e1-2]*"}
    name = late[1:].rpartition(".")[0]
    found = scan(inbox, **rules)
    assert name in found["e1/"][1]
    assert "1_" + name in found["1"][1]
    assert found["2"] == (["2_a.cu8"], [])
    # What a copy that was broken off has left does not hold up the event for ever.
    if name == "b.cu8":
        put(inbox / "e1", "b.cu8")
        assert scan(inbox)["e1/"] == (["a.cu8", "b.cu8"], [])


def test_hidden_files_that_are_no_copies_are_ignored(inbox):
    put(inbox / "e1", "a.cu8", "a.json", "._a.cu8", "._a.cu8.json", ".b.cu8", ".b.cu8.json", ".notes.txt")
    assert scan(inbox) == {"e1/": (["a.cu8"], [])}


def test_group_rule_joins_recordings_by_name(inbox):
    import re

    put(inbox, "20200813T065220Z_77500_A_iq.wav", "20200813T065220Z_77500_B_iq.wav", "20200813T070000Z_77500_A_iq.wav")
    put(inbox, "20200813T065220Z_77500_B_iq.json", "other.wav")
    found = scan(inbox, group=re.compile(r"^(\d{8}T\d{6}Z)_"))
    assert {name: len(recordings) for name, (recordings, _) in found.items()} == {
        "20200813T065220Z": 2,
        "20200813T070000Z": 1,
    }
    assert len(watched.loose(inbox, Rules(), watched.scan(inbox, Rules()))) == 4
    with pytest.raises(ClientError, match="expected a group in it"):
        Rules(group=re.compile("x"))


def test_archives_and_collections_are_events_wherever_they_lie(inbox):
    put(inbox, "a.sigmf", "b.sigmf.gz", "c.sigmf-collection")
    put(inbox / "d", "e.sigmf", "f.cu8")
    assert list(scan(inbox)) == ["a.sigmf", "b.sigmf.gz", "c.sigmf-collection", "d/e.sigmf"]


def test_collection_that_lists_what_no_file_can_be_called_does_not_hold_up_the_others(inbox):
    put(inbox, "good.sigmf")
    streams = [{"name": "b" * 300, "hash": "0"}]
    (inbox / "bad.sigmf-collection").write_text(json.dumps({"collection": {"core:streams": streams}}))
    assert scan(inbox) == {name: ([name], []) for name in ("bad.sigmf-collection", "good.sigmf")}


def test_loose_recordings_are_pointed_out(inbox, serve, answer, capsys):
    put(inbox, "a.wav")
    assert main(["watch", str(inbox), "--once", "--url", serve(answer()).url, *QUICK]) == 0
    assert "a.wav and the like are no events" in capsys.readouterr().err


def test_loose_recordings_that_come_later_are_pointed_out_once(inbox, watch, server_url):
    process = watch(server_url)
    time.sleep(0.5)
    put(inbox, "late.wav")
    assert process.stderr.readline().startswith("late.wav and the like are no events")
    put(inbox, "later.wav")
    time.sleep(2.5)
    process.terminate()
    assert process.communicate(timeout=10)[1] == ""


def test_events_that_come_to_a_subfolder_after_its_own_are_located(inbox, collection, once, server_url):
    """Its recordings came before their collection, and were taken for the event; nothing that comes later is lost."""
    event = inbox / "day"
    event.mkdir()
    for path in sorted(collection.parent.glob("*.sigmf-*")):
        if not path.name.endswith("collection"):
            shutil.copy(path, event)
    assert once(server_url)[0] == 0
    shutil.copy(collection, event)
    put(event, "more.sigmf")
    code, _, err = once(server_url)
    assert [line["event"] for line in lines(inbox)] == ["day/", "day/more.sigmf", f"day/{collection.name}"]
    assert (code, "are no events" in err) == (1, False)


def test_recordings_beside_an_archive_in_a_subfolder_are_pointed_out(inbox, journal):
    told = []
    put(inbox / "site", "X.sigmf", "R1.wav", "R2.wav")
    put(inbox / "other", "Y.sigmf", "R1.wav")
    Leftovers(inbox, Rules(pattern="s*"), journal, patience_s=0, warn=told.append).look()
    assert told == ["site/R1.wav and the like are no events; give each event a subfolder, or say --group"]


def test_recordings_that_come_before_their_collection_are_not_loose(inbox, collection, journal):
    told = []
    leftovers = Leftovers(inbox, Rules(), journal, patience_s=1e-9, warn=told.append)
    files = sorted(p for p in collection.parent.iterdir() if p.suffix.startswith(".sigmf"))
    for path in sorted(files, key=lambda p: p.name.endswith("collection")):
        shutil.copy(path, inbox)
    (inbox / collection.name).rename(inbox / "later")
    leftovers.look()
    (inbox / "later").rename(inbox / collection.name)
    leftovers.look()
    (inbox / collection.name).rename(inbox / "later")
    leftovers.look()
    assert told == []
    leftovers.look()
    assert len(told) == 1


def test_receiver_that_comes_after_the_fix_is_pointed_out_once(inbox, collection, watch, once, server_url):
    process = watch(server_url)
    event = inbox / "a"
    event.mkdir()
    for path in sorted(collection.parent.glob("*_R[123].*")):
        shutil.copy(path, event)
    until(lambda: located(inbox))
    assert lines(inbox)[0]["recordings"] == 3
    for path in collection.parent.glob("*_R4.*"):
        shutil.copy(path, event)
    told = "a/ was located without 1 of its recordings, which came later"
    assert process.stderr.readline().startswith(told)
    time.sleep(2.5)
    process.terminate()
    assert process.communicate(timeout=10)[1] == ""
    code, out, err = once(server_url)
    assert (code, out, err.startswith(told), len(lines(inbox))) == (0, "", True, 1)


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path / "state.jsonl")
    yield made
    made.close()


def line(event, outcome="fix", stamp="s"):
    return {"event": event, "outcome": outcome, "stamp": stamp}


def test_line_of_text_says_when_and_what_makes_the_fix_doubtful(inbox, bring, once, serve, answer):
    url = serve(answer(uncertainties=((9e5, 20.0),))).url
    bring("a")
    (inbox / "a" / "synthetic_R2.sigmf-data").write_bytes(b"x")
    code, out, _ = once(url, "--minimum-receivers", "3")
    assert code == 0
    (text,) = out.splitlines()
    assert "  3 receivers  " in text
    assert "  received 2026-01-01T12:00:00." in text
    assert "  left out: synthetic_R2: " in text
    assert "  doubtful: sigma of 900.0 km" in text


def test_journal_belongs_to_one_watcher(journal):
    with pytest.raises(ClientError, match="a watcher that is running"):
        Journal(journal.path)


def test_journal_drops_a_torn_line_and_keeps_the_rest(tmp_path):
    path = tmp_path / "j.jsonl"
    path.write_text(json.dumps(line("a")) + "\n" + '{"event": "b", "reason": "' + "long " * 50)
    with contextlib.closing(Journal(path)) as journal:
        assert journal.has_fix("a")
        assert journal.last("b") is None
        journal.append(line("c"))
    assert [json.loads(text)["event"] for text in path.read_text().splitlines()] == ["a", "c"]


@pytest.mark.parametrize("content", ["nothing\n", "{}\n", "[]\n", "3\n"])
def test_journal_is_not_overwritten_when_it_is_something_else(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(ClientError, match="line 1 is not one of a watcher"):
        Journal(path)
    assert path.read_text() == content


def test_journal_is_as_before_when_the_disk_is_full(journal, monkeypatch):
    journal.append(line("a"))
    before = journal.path.read_bytes()
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, at: real(file, content[:7], at))
    with pytest.raises(ClientError, match="wrote 7 of"):
        journal.append(line("b"))
    assert journal.path.read_bytes() == before
    assert journal.last("b") is None


def test_watch_needs_a_folder_and_a_place_for_its_state(tmp_path, inbox, capsys):
    assert main(["watch", str(tmp_path / "none"), "--once"]) == 1
    assert main(["watch", str(inbox), "--once", "--state", str(tmp_path / "none" / "x.jsonl")]) == 1
    assert main(["watch", str(inbox), "--once", "--start-s", "nan"]) == 1
    assert main(["watch", str(inbox), "--once", "--skew-limit-s", "0"]) == 1
    assert main(["watch", str(inbox), "--once", "--minimum-receivers", "0"]) == 1
    assert lines(inbox) == []
    err = capsys.readouterr().err
    assert "expected 0 or more" in err
    assert "skew limit of 0.0 s; expected above 0" in err
    assert "minimum_receivers: got 0; expected 1 or more" in err
    assert "is no folder" in err
    assert "give another place with --state" in err


def watcher(inbox, journal, locate, **given):
    return Watcher(
        scan=lambda: watched.scan(inbox, Rules()),
        locate=locate,
        journal=journal,
        pace=Pace(settle_s=0),
        tell=lambda _: None,
        warn=lambda _: None,
    )


@pytest.mark.parametrize("error", [ServerUnavailable, ModelUnavailable])
def test_event_that_the_server_dies_at_does_not_hold_up_the_others_for_ever(inbox, journal, error):
    put(inbox / "a-poison", "x.cu8")
    stop = threading.Event()
    asked = Counter()

    def locate(arrival, stamp):
        asked[arrival.name] += 1
        if arrival.name == "a-poison/":
            raise error("it went away")
        return {"fix": {}}

    watch = watcher(inbox, journal, locate)
    for i in range(2 * MOST_SETBACKS):
        put(inbox / f"b{i}", "x.cu8")
        watch.run_once(stop)
    watch.run_once(stop)
    assert all(journal.has_fix(f"b{i}/") for i in range(2 * MOST_SETBACKS))
    assert journal.last("a-poison/")["outcome"] == "failed"
    assert asked["a-poison/"] == MOST_SETBACKS + 1


def test_event_waits_for_ever_when_the_server_is_just_away(inbox, journal):
    put(inbox / "a", "x.cu8")

    def locate(arrival, stamp):
        raise ServerUnavailable("nobody there")

    watch = watcher(inbox, journal, locate)
    for _ in range(5 * MOST_SETBACKS):
        watch.run_once(threading.Event())
    assert journal.last("a/") is None
    assert watch.away == "nobody there"


def test_result_is_dropped_when_the_files_changed_meanwhile(inbox, journal):
    put(inbox / "a", "x.cu8")
    calls = []

    def locate(arrival, stamp):
        calls.append(stamp)
        if len(calls) == 1:
            (inbox / "a" / "x.cu8").write_bytes(b"longer")
            raise RecordingError("it ends within a sample")
        return {"fix": {}}

    watch = watcher(inbox, journal, locate)
    assert [a.name for a in watch.run_once(threading.Event())] == ["a/"]
    assert journal.last("a/") is None
    assert watch.run_once(threading.Event()) == []
    assert journal.has_fix("a/")
    assert calls[0] != calls[1]


@pytest.mark.server
def test_real_server_is_stopped_and_started_during_the_watch(inbox, bring, watch, repository):
    from rfserve.server.process import ServerOptions, TritonServer

    port = free_port()
    models = ("iq_features", "heimdall_net", "locate")
    options = ServerOptions(repository=repository, models=models, grpc_port=port, http_port=0, metrics_port=0)
    names = [bring("a")]
    process = watch(f"127.0.0.1:{port}", "--output", "jsonl")
    with TritonServer(options):
        until(lambda: len(lines(inbox)) == 1, 60)
    names.append(bring("b"))
    write(SyntheticEvent(seed=5, receivers=3), inbox / "c")
    names.append("c/synthetic.sigmf-collection")
    time.sleep(1)
    with TritonServer(options):
        until(lambda: len(lines(inbox)) == 3, 90)
        process.terminate()
        out, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert located(inbox) == Counter(names)
    assert [json.loads(text) for text in out.splitlines()] == lines(inbox)
    assert {len(found["fix"]["receivers"]) for found in lines(inbox)} == {3, 4}
