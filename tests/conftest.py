"""Fixtures for the whole house: simulated providers on real sockets."""

from collections.abc import AsyncIterator

import pytest
from hypothesis import settings

from llmshield.simulator import Simulator

settings.register_profile("house", deadline=None)  # a busy machine is no defect; time is the bench's
settings.load_profile("house")


@pytest.fixture
async def primary() -> AsyncIterator[Simulator]:
    async with Simulator(name="primary") as sim:
        yield sim


@pytest.fixture
async def backup() -> AsyncIterator[Simulator]:
    async with Simulator(name="backup") as sim:
        yield sim
