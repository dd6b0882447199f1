"""What the command line says of servers reaches them: priorities, several addresses, hedges, shared memory."""

import time

import grpc
import numpy as np
import pytest

from rfserve.clients.cli import main
from rfserve.export.spec import example, find
from rfserve.export.spec.queueing import Priority


@pytest.fixture
def command(collection, tmp_path):
    """The arguments of each command that asks a server, without its address."""
    arrays = tmp_path / "in.npz"
    np.savez(arrays, **example(find("heimdall_net")))
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "event").symlink_to(collection.parent)
    given = {
        "locate": ["locate", collection],
        "batch": ["batch", collection],
        "watch": ["watch", inbox, "--once", "--settle-s", "0", "--state", tmp_path / "state.jsonl"],
        "infer": ["infer", "heimdall_net", arrays],
    }
    return {name: [str(a) for a in arguments] for name, arguments in given.items()}


def priorities(server):
    return [request.parameters["priority"].uint64_param for request in server.requests]


@pytest.mark.parametrize(
    ("name", "usual"),
    [
        ("locate", Priority.NORMAL),
        ("infer", Priority.NORMAL),
        ("batch", Priority.BULK),
        ("watch", Priority.BULK),
    ],
)
def test_requests_have_the_priority_of_their_command_or_the_one_asked_for(serve, answer, command, name, usual):
    other = Priority.BULK if usual is Priority.NORMAL else Priority.NORMAL
    asked = ["--priority", other.name.lower()]
    hedged = ["--hedge-after-ms", "60000"]
    cases = (([], usual), (asked, other), (hedged, usual), ([*asked, *hedged], other))
    for number, (options, expected) in enumerate(cases):
        server = serve(answer())
        state = ["--state", f"{command['watch'][-1]}{number}"] if name == "watch" else []
        assert main([*command[name], "--url", server.url, *options, *state]) == 0
        assert priorities(server) == [expected]


@pytest.mark.parametrize("name", ["locate", "infer", "batch", "watch"])
def test_every_command_goes_past_a_server_that_is_away(serve, answer, command, name):
    away, here = serve(answer()), serve(answer())
    away.stop()
    assert main([*command[name], "--url", f"{away.url},{here.url}"]) == 0
    assert len(here.requests) == 1


@pytest.mark.parametrize("name", ["locate", "infer", "batch", "watch"])
def test_late_answer_is_asked_for_a_second_time_at_another_server(serve, answer, command, name):
    def late(request, context):
        time.sleep(0.5)
        return answer(positions=((10.0, 10.0),))(request, context)

    slow, quick = serve(late), serve(answer())
    assert main([*command[name], "--url", f"{slow.url},{quick.url}", "--hedge-after-ms", "20"]) == 0
    assert (len(slow.requests), len(quick.requests)) == (1, 1)


def test_hedged_client_gives_the_servers_reason(serve, refuse, command, capsys):
    url = serve(refuse(grpc.StatusCode.INVALID_ARGUMENT, "no such thing")).url
    assert main([*command["locate"], "--url", url, "--hedge-after-ms", "100"]) == 1
    assert "no such thing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--hedge-after-ms", "0"], "hedging: got 0.0 s; expected above 0"),
        (["--hedge-after-ms", "5", "--shared-memory"], "expected one of them"),
        (["--url", "127.0.0.1:1,127.0.0.1:2", "--shared-memory"], "expected one server on this machine"),
        (["--admin-key-file", "key"], "without --shared-memory"),
        (["--shared-memory", "--admin-key-file", "nowhere"], "cannot read the administrator's key nowhere"),
    ],
)
def test_options_that_cannot_be_are_refused(command, capsys, options, text):
    assert main([*command["locate"], *options]) == 1
    assert text in capsys.readouterr().err
