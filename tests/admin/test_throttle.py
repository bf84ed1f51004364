"""Wrong credentials: a few at once, then one now and then, and no way around it."""

import pytest

from llmshield.admin.throttle import Throttle
from llmshield.testing import FrozenClock


def wrong(throttle: Throttle, address: str, times: int) -> int:
    """How many of so many tries come through."""
    through = 0
    for _ in range(times):
        if not throttle.wait_s(address):
            through += 1
            throttle.count(address)
    return through


def test_a_burst_and_then_a_trickle() -> None:
    throttle = Throttle(burst=10, every_s=6.0)
    with FrozenClock() as time:
        assert 10 == wrong(throttle, "192.0.2.7", 100)
        assert 6.0 == pytest.approx(throttle.wait_s("192.0.2.7"))
        assert 10 == wrong(throttle, "192.0.2.8", 20)
        time.advance(6.0)

        assert 1 == wrong(throttle, "192.0.2.7", 20)
        time.advance(3600)
        assert 10 == wrong(throttle, "192.0.2.7", 100)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.7", "::ffff:192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("nonsense", "", True),
    ],
)
def test_who_counts_as_one(first: str, second: str, same: bool) -> None:
    throttle = Throttle(burst=3)
    with FrozenClock():
        wrong(throttle, first, 3)

        assert same == bool(throttle.wait_s(second))


def test_many_addresses_win_nothing() -> None:
    """Whoever has more addresses than are kept shares one count with all the others; who is kept stays throttled."""
    throttle = Throttle(burst=3, every_s=6.0, kept=50)
    with FrozenClock() as time:
        through = sum(wrong(throttle, f"10.{each >> 8}.{each & 255}.1", 3) for each in range(1000))

        assert through == 50 * 3 + 3
        assert throttle.wait_s("10.0.0.1")
        assert len(throttle._paid_at) <= 51
        time.advance(3600)
        throttle.count("192.0.2.7")
        assert len(throttle._paid_at) <= 51
        assert not throttle.wait_s("10.0.0.1")
