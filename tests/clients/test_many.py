"""Many events through both clients, against a scripted server."""

import asyncio
import threading
import time

import pytest

from rfserve.clients.async_client import AsyncLocalizationClient
from rfserve.clients.client import LocalizationClient
from rfserve.clients.errors import ClientError, EventError, RecordingError
from rfserve.clients.many import WINDOW, Outcome


def _blocking(url, events, stop_after=None, **options):
    found = []
    with LocalizationClient(url, timeout_s=20.0) as client:
        for outcome in client.locate_many(events, **options):
            found.append(outcome)
            if len(found) == stop_after:
                break
    return found


def _asynchronous(url, events, stop_after=None, **options):
    async def run():
        found = []
        async with AsyncLocalizationClient(url, timeout_s=20.0) as client:
            outcomes = client.locate_many(events, **options)
            async for outcome in outcomes:
                found.append(outcome)
                if len(found) == stop_after:
                    await outcomes.aclose()
                    break
        return found

    return asyncio.run(run())


@pytest.fixture(params=[_blocking, _asynchronous], ids=["blocking", "async"])
def locate_many(request):
    return request.param


@pytest.fixture
def places(serve, answer):
    """A server that answers with the latitude of the first receiver, after a while for those in the south."""
    running, most = [0], [0]
    lock = threading.Lock()

    def behave(request, context):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        try:
            names = [t.name for t in request.inputs]
            held = memoryview(request.raw_input_contents[names.index("receiver_positions")]).cast("f")
            time.sleep(0.25 if held[0] < 0 else 0.01)
            return answer(positions=[[held[0], 7.0]])(request, context)
        finally:
            with lock:
                running[0] -= 1

    server = serve(behave)
    server.most = most
    return server


def latitudes(outcomes):
    return [round(o.fix.latitude_deg) for o in outcomes]


def test_outcomes_come_in_the_order_of_the_events(locate_many, places, observe):
    events = [[observe(latitude_deg=lat)] for lat in (-1.0, 2.0, 3.0, -4.0, 5.0, 6.0)]
    found = locate_many(places.url, events, concurrency=3)
    assert latitudes(found) == [-1, 2, 3, -4, 5, 6]
    assert [o.index for o in found] == list(range(6))


def test_outcomes_come_as_they_are_made_when_order_is_not_asked_for(locate_many, places, observe):
    events = [[observe(latitude_deg=lat)] for lat in (-1.0, 2.0, 3.0)]
    found = locate_many(places.url, events, concurrency=3, ordered=False)
    assert latitudes(found)[-1] == -1
    assert sorted(o.index for o in found) == [0, 1, 2]
    assert all(latitudes([o]) == [(-1, 2, 3)[o.index]] for o in found)


@pytest.mark.parametrize("ordered", [True, False])
def test_events_are_taken_as_they_are_needed_and_few_are_in_flight(locate_many, places, observe, ordered):
    taken, finished, ahead = [0], [0], [0]

    def events():
        for i in range(40):
            taken[0] += 1
            ahead[0] = max(ahead[0], taken[0] - finished[0])
            yield [observe(latitude_deg=float(-1 if i == 5 else i + 1))]

    async def run():
        async with AsyncLocalizationClient(places.url, timeout_s=20.0) as client:
            async for _ in client.locate_many(events(), concurrency=3, ordered=ordered):
                finished[0] += 1

    if locate_many is _asynchronous:
        asyncio.run(run())
    else:
        with LocalizationClient(places.url, timeout_s=20.0) as client:
            for _ in client.locate_many(events(), concurrency=3, ordered=ordered):
                finished[0] += 1
    assert finished[0] == 40
    assert ahead[0] <= 3 * WINDOW + 1
    assert places.most[0] <= 3


def test_errors_stand_in_the_place_of_their_events(locate_many, places, observe):
    def unreadable():
        raise RecordingError("R1.sigmf-meta is cut short")

    def broken():
        raise ZeroDivisionError

    events = [[observe(latitude_deg=1.0)], unreadable, [], broken, lambda: [observe(latitude_deg=5.0)]]
    found = locate_many(places.url, events, concurrency=2)
    kinds = [type(o.error) for o in found]
    assert kinds == [type(None), RecordingError, EventError, ZeroDivisionError, type(None)]
    assert latitudes([found[0], found[4]]) == [1, 5]
    with pytest.raises(RecordingError, match="cut short"):
        found[1].require()
    assert found[4].require() is found[4].fix


def test_what_was_begun_is_handed_out_when_the_events_themselves_end_in_an_error(places, observe):
    def events():
        for lat in (1.0, 2.0, 3.0):
            yield [observe(latitude_deg=lat)]
        raise OSError("the disk is gone")

    found = []
    with LocalizationClient(places.url, timeout_s=20.0) as client, pytest.raises(OSError, match="disk"):
        found.extend(client.locate_many(events(), concurrency=2))
    assert latitudes(found) == [1, 2, 3]


def test_stopping_early_leaves_nothing_running(locate_many, places, observe):
    before = threading.active_count()
    found = locate_many(places.url, ([observe(latitude_deg=1.0)] for _ in range(10**9)), stop_after=3, concurrency=2)
    assert len(found) == 3
    assert not [t for t in threading.enumerate() if t.name.startswith("rfserve-locate")]
    assert threading.active_count() <= before + 4


def test_stopping_early_does_not_wait_for_events_that_are_being_read(places, observe):
    reading, read = threading.Event(), threading.Event()

    def slow():
        reading.set()
        read.wait(20)
        return [observe(latitude_deg=2.0)]

    with LocalizationClient(places.url, timeout_s=20.0) as client:
        outcomes = client.locate_many([[observe(latitude_deg=1.0)], slow, slow], concurrency=2)
        next(outcomes)
        assert reading.wait(5)
        closing = threading.Thread(target=outcomes.close, daemon=True)
        closing.start()
        time.sleep(0.1)
        read.set()
        closing.join(10)
        assert not closing.is_alive()


@pytest.mark.parametrize("ordered", [True, False])
def test_fixes_are_handed_out_before_a_slow_source_has_its_next_event(locate_many, places, observe, ordered):
    """An asynchronous source gives its next event once the fix of the one before is out; a blocking one lags by one."""
    finished, lags = [0], []
    few = 6

    async def live():
        for i in range(few):
            async with asyncio.timeout(10):
                while finished[0] < i:
                    await asyncio.sleep(0.001)
            yield [observe(latitude_deg=1.0)]

    def read():
        for i in range(few):
            lags.append(i - finished[0])
            yield [observe(latitude_deg=1.0)]
            time.sleep(0.2)

    async def run():
        async with AsyncLocalizationClient(places.url, timeout_s=20.0) as client:
            async for outcome in client.locate_many(live(), concurrency=4, ordered=ordered):
                outcome.require()
                finished[0] += 1

    if locate_many is _asynchronous:
        asyncio.run(run())
        assert finished[0] == few
        return
    with LocalizationClient(places.url, timeout_s=20.0) as client:
        for outcome in client.locate_many(read(), concurrency=4, ordered=ordered):
            outcome.require()
            finished[0] += 1
    assert finished[0] == few
    # One that was read while the machine stood still may come with the next.
    assert max(lags) <= 2


def test_progress_is_drawn_on_a_terminal_only(locate_many, places, observe, capsys, monkeypatch):
    events = [[observe(latitude_deg=1.0)]] * 3
    locate_many(places.url, events, progress=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    locate_many(places.url, events, progress=True)
    assert "3/3" in capsys.readouterr().err
    locate_many(places.url, events)
    assert capsys.readouterr().err == ""


def test_concurrency_is_refused_when_it_is_none(locate_many, places):
    with pytest.raises(ClientError, match="concurrency"):
        locate_many(places.url, [], concurrency=0)


def test_outcome_is_a_fix_or_an_error():
    with pytest.raises(ClientError, match="one of them"):
        Outcome(index=3)
