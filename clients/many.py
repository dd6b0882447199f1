"""Many events, some at a time: a fix or an error for each, none lost and none of the others held up."""

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Sequence,
    Sized,
)
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from tqdm import tqdm

from rfserve.clients.errors import ClientError
from rfserve.clients.fix import Fix
from rfserve.clients.observation import Observation
from rfserve.clients.turns import Turns

EventSource = Sequence[Observation] | Callable[[], Sequence[Observation]]

# For each request in flight, so many events are held: in order, a slow one holds back the fixes of later ones rather
# than the requests themselves, and those that are read ahead can be sent next to others of their length.
WINDOW = 4


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of event number `index`, counted from 0: its `fix`, or the `error` in its place."""

    index: int
    fix: Fix | None = None
    error: Exception | None = None

    def __post_init__(self) -> None:
        if (self.fix is None) == (self.error is None):
            raise ClientError(f"outcome {self.index}: got {self.fix} and {self.error}; expected one of them")

    def require(self) -> Fix:
        """The fix; raises the error when there is none."""
        if self.fix is None:
            raise self.error or ClientError(f"event {self.index} has no fix")
        return self.fix


Task = TypeVar("Task", Future[Outcome], "asyncio.Task[Outcome]")


def run(
    locate: Callable[[Sequence[Observation]], Fix],
    events: Iterable[EventSource],
    *,
    concurrency: int,
    ordered: bool,
    progress: bool,
) -> Generator[Outcome, None, None]:
    """`LocalizationClient.locate_many`, with threads. What `events` itself raises ends it, after what was begun."""
    _require_concurrency(concurrency)
    return _run(locate, events, concurrency=concurrency, ordered=ordered, progress=progress)


def _run(
    locate: Callable[[Sequence[Observation]], Fix],
    events: Iterable[EventSource],
    *,
    concurrency: int,
    ordered: bool,
    progress: bool,
) -> Generator[Outcome, None, None]:
    def one(index: int, event: EventSource) -> Outcome:
        try:
            observations = event() if callable(event) else event
            with turns.turn(_samples(observations)):
                return Outcome(index=index, fix=locate(observations))
        except Exception as error:  # whatever fails an event must not cost the others theirs
            return Outcome(index=index, error=error)

    source = enumerate(events)
    pending: deque[Future[Outcome]] = deque()
    problem: Exception | None = None
    more = True
    turns = Turns(concurrency)
    workers = ThreadPoolExecutor(WINDOW * concurrency, thread_name_prefix="rfserve-locate")
    bar = _bar(events, progress=progress)
    try:
        while more or pending:
            room = more and _has_room(pending, concurrency, ordered=ordered)
            if room:
                try:
                    index, event = next(source)
                except StopIteration:
                    more = False
                except Exception as error:  # raised once the answers that are due have been handed out
                    more, problem = False, error
                else:
                    pending.append(workers.submit(one, index, event))
                    del event
            # One for each that is taken: a source that is slow must not hold back what is done.
            future = _finished(pending, ordered=ordered)
            if future is not None:
                bar.update()
                yield future.result()
            elif pending and not room:
                wait([f for f in pending if not f.done()], return_when=FIRST_COMPLETED)
    finally:
        turns.end()
        workers.shutdown(wait=True, cancel_futures=True)
        bar.close()
    if problem is not None:
        raise problem


async def run_async(
    locate: Callable[[Sequence[Observation]], Awaitable[Fix]],
    events: Iterable[EventSource] | AsyncIterable[EventSource],
    *,
    concurrency: int,
    ordered: bool,
    progress: bool,
) -> AsyncGenerator[Outcome, None]:
    """`AsyncLocalizationClient.locate_many`, with tasks. What `events` itself raises ends it, after what was begun."""
    _require_concurrency(concurrency)

    async def one(index: int, event: EventSource) -> Outcome:
        try:
            observations = await asyncio.to_thread(event) if callable(event) else event
            async with turns.turn_async(_samples(observations)):
                return Outcome(index=index, fix=await locate(observations))
        except Exception as error:  # whatever fails an event must not cost the others theirs
            return Outcome(index=index, error=error)

    source = aiter(events) if isinstance(events, AsyncIterable) else _asynchronous(events)
    turns = Turns(concurrency)
    pending: deque[asyncio.Task[Outcome]] = deque()
    problem: Exception | None = None
    index, more = 0, True
    following: asyncio.Future[EventSource] | None = None
    bar = _bar(events, progress=progress)
    try:
        while more or pending:
            if following is None and more and _has_room(pending, concurrency, ordered=ordered):
                following = asyncio.ensure_future(_next(source))
                # What has an event at hand gives it now.
                await asyncio.sleep(0)
            taken = following is not None and following.done()
            if following is not None and taken:
                try:
                    pending.append(asyncio.create_task(one(index, following.result())))
                    index += 1
                except StopAsyncIteration:
                    more = False
                except Exception as error:  # raised once the answers that are due have been handed out
                    more, problem = False, error
                following = None
            task = _finished(pending, ordered=ordered)
            if task is not None:
                bar.update()
                yield task.result()
            elif not taken:
                awaited = [t for t in (*pending, following) if t is not None and not t.done()]
                await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
    finally:
        left: list[asyncio.Future[Any]] = [*pending] if following is None else [*pending, following]
        for unfinished in left:
            unfinished.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        bar.close()
    if problem is not None:
        raise problem


async def _next(source: AsyncIterator[EventSource]) -> EventSource:
    return await anext(source)


def _has_room(pending: Sequence[Any], concurrency: int, *, ordered: bool) -> bool:
    """Whether to take another event now, rather than hand out what is done."""
    done = [p.done() for p in pending]
    if not any(done[: 1 if ordered else None]):
        return len(done) < WINDOW * concurrency
    return done.count(False) < concurrency and len(done) < (WINDOW * concurrency if ordered else concurrency)


def _finished(pending: deque[Task], *, ordered: bool) -> Task | None:
    """The next that is done, which is then no longer pending; None when there is none."""
    for task in list(pending)[: 1 if ordered else None]:
        if task.done():
            pending.remove(task)
            return task
    return None


async def _asynchronous(events: Iterable[EventSource]) -> AsyncIterator[EventSource]:
    for event in events:
        yield event


def _samples(observations: Sequence[Observation]) -> int:
    return observations[0].iq.size if observations else 0


def _require_concurrency(concurrency: int) -> None:
    if concurrency < 1:
        raise ClientError(f"concurrency: got {concurrency}; expected 1 or more")


def _bar(events: object, *, progress: bool) -> "tqdm[Any]":
    total = len(events) if isinstance(events, Sized) else None
    # None: only on a terminal.
    return tqdm(total=total, unit="event", disable=None if progress else True, dynamic_ncols=True)
