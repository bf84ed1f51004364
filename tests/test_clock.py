"""The clock of the house can be held still, and is put back."""

from llmshield import clock
from llmshield.testing import FrozenClock


async def test_install_returns_the_one_before() -> None:
    frozen = FrozenClock(5.0)
    before = clock.install(frozen)
    try:
        assert 5.0 == clock.now()
    finally:
        assert frozen is clock.install(before)
    assert clock.now() > 1_000_000_000
