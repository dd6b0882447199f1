"""Events of one length are sent next to each other, none waits for ever, and places are given back."""

import asyncio
import itertools
import threading
import time

import pytest

from rfserve.clients.async_client import AsyncLocalizationClient
from rfserve.clients.client import LocalizationClient
from rfserve.clients.turns import PATIENCE, Ended, Turns


async def order(lengths, places=1):
    """In which order events that all wait are sent."""
    turns, sent, open_ = Turns(places), [], asyncio.Event()

    async def one(samples):
        async with turns.turn_async(samples):
            sent.append(samples)
            await open_.wait()

    tasks = [asyncio.create_task(one(samples)) for samples in lengths]
    await asyncio.sleep(0)
    open_.set()
    await asyncio.gather(*tasks)
    return sent


def test_next_is_one_of_the_same_length_else_the_oldest():
    assert asyncio.run(order([2, 3, 2, 4, 3, 2])) == [2, 2, 2, 3, 3, 4]
    assert asyncio.run(order([2, 3, 4, 3, 2, 2, 4], places=2)) == [2, 3, 3, 4, 4, 2, 2]


def test_rare_length_is_not_overtaken_for_ever():
    sent = asyncio.run(order([2, 3, *[2] * (3 * PATIENCE)]))
    assert sent.index(3) == PATIENCE + 1


def test_cancelled_event_gives_its_turn_back():
    async def run():
        turns = Turns(1)

        async def one():
            async with turns.turn_async(2):
                await asyncio.sleep(60)

        running, waiting, last = (asyncio.create_task(one()) for _ in range(3))
        await asyncio.sleep(0)
        for task in (waiting, running):
            task.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
        await asyncio.sleep(0)
        # The last has the place now, and gives it back.
        last.cancel()
        await asyncio.gather(last, return_exceptions=True)
        async with asyncio.timeout(5), turns.turn_async(2):
            return True

    assert asyncio.run(run())


def test_threads_that_wait_give_up_when_it_has_ended():
    turns, ended = Turns(1), []

    def wait():
        try:
            with turns.turn(2):
                pass
        except Ended:
            ended.append(True)

    with turns.turn(2):
        thread = threading.Thread(target=wait)
        thread.start()
        turns.end()
        thread.join(5)
    assert ended == [True]


def test_who_comes_after_the_end_does_not_wait_for_it():
    turns, ended = Turns(1), threading.Event()
    turns.end()

    def come():
        with pytest.raises(Ended), turns.turn(2):
            pass
        ended.set()

    threading.Thread(target=come, daemon=True).start()
    assert ended.wait(5)


@pytest.mark.parametrize("kind", ["blocking", "async"])
def test_client_sends_recordings_of_one_length_next_to_each_other(serve, answer, observe, kind):
    def behave(request, context):
        time.sleep(0.005)
        return answer()(request, context)

    server = serve(behave)
    # Read as they are needed, as those of a folder are.
    events = [lambda n=n: [observe(samples=n)] for _ in range(10) for n in (2048, 4096, 8192)]

    async def ask():
        async with AsyncLocalizationClient(server.url, timeout_s=20.0) as client:
            return [o.index async for o in client.locate_many(events, concurrency=2)]

    if kind == "async":
        indices = asyncio.run(ask())
    else:
        with LocalizationClient(server.url, timeout_s=20.0) as client:
            indices = [o.index for o in client.locate_many(events, concurrency=2)]
    assert indices == list(range(30))
    lengths = [
        dict(zip((t.name for t in r.inputs), r.inputs, strict=True))["raw_iq"].shape[-1] for r in server.requests
    ]
    changes = sum(a != b for a, b in itertools.pairwise(lengths))
    # Each time, when they are sent as they come.
    assert changes < 20
