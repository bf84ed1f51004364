"""Fixtures for the whole house: simulated providers on real sockets."""

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
