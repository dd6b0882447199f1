"""Load generators that wait for plans, started once."""

from collections.abc import Iterator

import pytest

from rfserve.loadtest.engine import Engine


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Two processes that share a load."""
    with Engine(processes=2) as running:
        yield running


@pytest.fixture(scope="session")
def lone_engine() -> Iterator[Engine]:
    """One that has it to itself."""
    with Engine() as running:
        yield running
