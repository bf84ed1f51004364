"""Real sockets: simulated providers and gateways in the test's own loop."""

from collections.abc import AsyncIterator

import pytest

from llmshield.simulator import Simulator


@pytest.fixture
async def primary() -> AsyncIterator[Simulator]:
    async with Simulator(name="primary") as sim:
        yield sim


@pytest.fixture
async def backup() -> AsyncIterator[Simulator]:
    async with Simulator(name="backup") as sim:
        yield sim
