from collections import Counter

import pytest

from rfserve.clients import servers
from rfserve.clients.servers import FIRST_REST_S, LONGEST_REST_S, LOSSES, Channel, Servers


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(servers.time, "monotonic", lambda: now[0])
    return now


def make(names="abc", connections=1):
    return Servers([Channel(server=n, client=f"{n}{i}") for i in range(connections) for n in names])


def picked(found, times):
    return Counter(found.pick().server for _ in range(times))


def test_servers_and_their_connections_take_turns():
    found = make(connections=2)
    assert Counter(found.pick().client for _ in range(60)) == dict.fromkeys(["a0", "a1", "b0", "b1", "c0", "c1"], 10)
    assert {c.server for c in found.one_of_each()} == {"a", "b", "c"}


def test_server_rests_when_it_did_not_answer_and_is_tried_by_one_call_afterwards(clock):
    found = make()
    found.rest(found.channels[0])
    assert set(picked(found, 30)) == {"b", "c"}
    clock[0] += FIRST_REST_S
    assert picked(found, 30)["a"] == 1
    clock[0] += FIRST_REST_S
    assert picked(found, 30)["a"] == 0
    clock[0] += FIRST_REST_S
    assert picked(found, 30)["a"] == 1
    found.answered(found.channels[0])
    assert picked(found, 30)["a"] == 10


def test_rest_grows_to_its_limit(clock):
    found = make("ab")
    found.rest(found.channels[0])
    for _ in range(10):
        clock[0] += LONGEST_REST_S
        assert picked(found, 10)["a"] == 1
    clock[0] += LONGEST_REST_S * 0.9
    assert picked(found, 10)["a"] == 0


def test_all_are_asked_in_turn_when_all_rest(clock):
    found = make("ab")
    for channel in found.channels:
        found.rest(channel)
    assert picked(found, 10) == {"a": 5, "b": 5}


def test_server_to_avoid_is_taken_only_when_there_is_no_other():
    found = make("ab")
    assert {found.pick({"a"}).server for _ in range(6)} == {"b"}
    assert {found.pick({"a", "b"}).server for _ in range(6)} == {"a", "b"}
    assert found.others({"a"})
    assert not found.others({"a", "b"})


def test_server_rests_when_others_always_answer_first(clock):
    found = make("ab")
    slow = found.channels[0]
    for _ in range(LOSSES - 1):
        found.lost(slow)
    found.answered(slow)
    for _ in range(LOSSES - 1):
        found.lost(slow)
    assert picked(found, 10)["a"] == 5
    found.lost(slow)
    assert picked(found, 10)["a"] == 0
