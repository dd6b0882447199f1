"""A second server that is asked because the first is late, against scripted servers."""

import asyncio
import time

import grpc
import pytest

from rfserve.clients.async_client import AsyncLocalizationClient
from rfserve.clients.errors import DeadlineExceeded, ServerUnavailable
from rfserve.clients.hedging import Hedging
from rfserve.clients.retries import RetryLimit

PLENTY = RetryLimit(burst=1000)


def slow(_, context):
    time.sleep(0.4)
    context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "late")


def ask(url, event, calls=1, **options):
    """What becomes of calls one after the other: their errors, and what was sent."""

    async def run():
        problems = []
        given = {"timeout_s": 0.3, "hedging": Hedging(after_s=0.05), "retry_limit": PLENTY} | options
        async with AsyncLocalizationClient(url, model="locate", **given) as client:
            for _ in range(calls):
                try:
                    await client.locate(event)
                    problems.append(None)
                except (DeadlineExceeded, ServerUnavailable) as error:
                    problems.append(error)
            return problems, client.counts

    return asyncio.run(run())


def test_error_is_that_of_the_server_that_it_names(serve, refuse, observe):
    """The slow one is late, the other one is away; neither takes the other's error."""
    late = serve(slow)
    away = serve(refuse(grpc.StatusCode.UNAVAILABLE, "away"))
    problems, _ = ask([late.url, away.url], [observe()], calls=10)
    for error in problems:
        assert late.url in str(error) or away.url in str(error)
        assert isinstance(error, DeadlineExceeded) == (late.url in str(error))


def test_first_answer_counts_whoever_gives_it(serve, answer, observe):
    waited_for = []

    def steady(request, context):
        time.sleep(0.2)
        waited_for.append(context.is_active())
        return answer(positions=[[1.0, 1.0]])(request, context)

    late, quick = serve(steady), serve(answer(positions=[[2.0, 2.0]]))
    problems, counts = ask([late.url, quick.url], [observe()], timeout_s=10.0)
    assert problems == [None]
    assert (counts.hedges, counts.hedges_won) == (1, 1)
    # The slower call is not cancelled, which can end a Triton.
    assert waited_for == [True]


def test_call_that_its_caller_cancels_is_left_to_the_server(serve, answer, observe):
    waited_for = []

    def late(request, context):
        time.sleep(0.4)
        waited_for.append(context.is_active())
        return answer()(request, context)

    async def run(url):
        async with AsyncLocalizationClient(url, model="locate", timeout_s=10.0) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.locate([observe()]), 0.1)

    asyncio.run(run(serve(late).url))
    assert waited_for == [True]
