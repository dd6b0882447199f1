import time

import pytest

from rfserve.clients import retries
from rfserve.clients.errors import (
    ClientError,
    DeadlineExceeded,
    ModelUnavailable,
    Overloaded,
    RequestRejected,
    ServerUnavailable,
)
from rfserve.clients.retries import LONGEST_PAUSE_S, Attempts, Counts, RetryBudget, RetryLimit
from rfserve.clients.servers import Channel, Servers

PLENTY = RetryLimit(burst=1000)


@pytest.fixture
def begin():
    """The attempts of a call to some servers."""

    def make(timeout_s=60.0, servers="a", budget=None):
        channels = Servers([Channel(server=name, client=None) for name in servers])
        return Attempts(timeout_s, channels, budget or RetryBudget(PLENTY), Counts())

    return make


def first(attempts):
    return next(iter(attempts))[1]


def test_pauses_grow_and_never_pass_the_deadline(begin):
    attempts = begin()
    pauses = [attempts.failed(first(attempts), ServerUnavailable("away")) for _ in range(12)]
    assert 0 < pauses[0] <= 0.05
    assert all(LONGEST_PAUSE_S / 2 <= p <= LONGEST_PAUSE_S for p in pauses[-4:])
    short = begin(timeout_s=0.001)
    with pytest.raises(ServerUnavailable):
        short.failed(short._servers.pick(), ServerUnavailable("away"))


@pytest.mark.parametrize("kind", [Overloaded, RequestRejected, ModelUnavailable, DeadlineExceeded])
def test_one_server_is_not_asked_again_when_that_cannot_help(begin, kind):
    attempts = begin()
    with pytest.raises(kind):
        attempts.failed(first(attempts), kind("no"))


@pytest.mark.parametrize("kind", [ServerUnavailable, Overloaded, DeadlineExceeded])
def test_whom_a_hedge_asked_in_vain_is_not_asked_next(begin, kind):
    attempts = begin(servers="abcd")
    asked = first(attempts)
    hedge = attempts.hedge(asked)
    attempts.hedge_failed(hedge, kind("no"))
    attempts.failed(asked, Overloaded("full"))
    assert first(attempts).server in set("abcd") - {asked.server, hedge.server}
    # It rests only when it is away: a hedge has less time than a try.
    later = {attempts._servers.pick().server for _ in range(4)}
    assert (hedge.server in later) == (kind is not ServerUnavailable)


@pytest.mark.parametrize("kind", [ServerUnavailable, Overloaded, ModelUnavailable, DeadlineExceeded])
def test_another_server_is_asked_at_once_and_each_only_once(begin, kind):
    attempts = begin(servers="abc")
    asked = []
    for _ in range(3):
        channel = first(attempts)
        asked.append(channel.server)
        if len(asked) < 3:
            assert attempts.failed(channel, kind("no")) == 0
    assert sorted(asked) == ["a", "b", "c"]
    if kind is ServerUnavailable:
        assert attempts.failed(channel, kind("no")) > 0
    else:
        with pytest.raises(kind):
            attempts.failed(channel, kind("no"))


@pytest.mark.parametrize(("waited_s", "again"), [(0.1, False), (0.5, True), (2.0, False)])
def test_one_server_is_asked_again_when_its_batcher_overslept(begin, monkeypatch, waited_s, again):
    now = [100.0]
    monkeypatch.setattr(retries.time, "monotonic", lambda: now[0])
    attempts = begin()
    tries = iter(attempts)
    for _ in range(2):
        _, channel = next(tries)
        now[0] += waited_s
        if again:
            assert attempts.failed(channel, Overloaded("too old")) == 0
        else:
            with pytest.raises(Overloaded):
                attempts.failed(channel, Overloaded("too old"))


def test_refused_request_is_not_sent_to_another_server(begin):
    attempts = begin(servers="ab")
    with pytest.raises(RequestRejected):
        attempts.failed(first(attempts), RequestRejected("wrong shape"))


def test_retries_stay_within_a_share_of_the_calls(begin):
    budget = RetryBudget(RetryLimit(share=0.1, per_second=0.0, burst=10.0))
    sent = refused = 0
    for _ in range(1000):
        attempts = begin(servers="ab", budget=budget)
        channel = first(attempts)
        try:
            attempts.failed(channel, ServerUnavailable("away"))
            sent += 1
        except ServerUnavailable as error:
            refused += attempts._counts.refused and "retry limit" in error.__notes__[0]
    assert 105 <= sent <= 110
    assert refused == 1000 - sent


def test_budget_fills_again_with_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(retries.time, "monotonic", lambda: now[0])
    budget = RetryBudget(RetryLimit(share=0.0, per_second=2.0, burst=3.0))
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    now[0] += 1.0
    assert [budget.take() for _ in range(3)] == [True, True, False]
    now[0] += 1e6
    assert [budget.take() for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize("bad", [{"share": 1.5}, {"share": -0.1}, {"per_second": -1.0}, {"burst": float("inf")}])
def test_limit_is_refused_when_it_is_none(bad):
    with pytest.raises(ClientError, match="retry limit"):
        RetryLimit(**bad)


def test_tries_end_with_the_deadline_and_say_what_was_last(begin):
    attempts = begin(timeout_s=0.05)
    left = [left_s for left_s, _ in attempts if time.sleep(0.02) is None]
    assert left == sorted(left, reverse=True)
    assert 1 <= len(left) <= 3
    assert isinstance(attempts.expired("locate"), DeadlineExceeded)
