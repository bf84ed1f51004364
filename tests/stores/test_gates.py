"""The long tail of windows is packed, and no limit is freed by that."""

import random

import pytest

from llmshield.stores import STEPS, Window
from llmshield.stores._gates import Gates, _Packed

NOW = 2_000_000_000_000


def window(name: str, seconds: int = 3_600) -> Window:
    return Window(name, 20, seconds)


def hit(gates: Gates, name: str, now_ms: int, cost: int = 1, seconds: int = 3_600) -> int:
    gates.trim(now_ms)
    gate = gates.at(window(name, seconds), now_ms)
    gate.add(now_ms // gate.step_ms, cost)
    return gate.hits


def test_packed_and_unpacked_are_the_same() -> None:
    """20,000 hits of 500 callers, with room for 20 objects and with room for all."""
    rng = random.Random(5)
    few, all_of_them = Gates(hot=20), Gates()
    now = NOW
    for _ in range(20_000):
        now += rng.choice([1, 500, 20_000])
        name, seconds = f"caller {rng.randrange(500)}", rng.choice([1, 60, 3_600, 86_400])
        assert hit(few, name, now, seconds=seconds) == hit(all_of_them, name, now, seconds=seconds)


def test_who_came_once_takes_little_and_who_came_often_stays() -> None:
    gates = Gates(hot=10)
    for minute in range(3):
        hit(gates, "often", NOW + minute * 60_000)
    for index in range(5_000):
        hit(gates, f"once {index}", NOW + 180_000)

    assert len(gates.objects) < 40
    assert len(gates) == 5_001
    assert hit(gates, "often", NOW + 200_000) == 4
    assert hit(gates, "once 17", NOW + 200_000) == 2


@pytest.mark.parametrize("hits", [0, 1 << 24])
def test_what_an_entry_cannot_hold_stays_an_object_or_is_nothing(hits: int) -> None:
    gates = Gates(hot=1)
    hit(gates, "large", NOW, hits)
    for index in range(20):
        hit(gates, f"once {index}", NOW)

    assert gates.at(window("large"), NOW).hits == hits


def test_what_is_over_is_forgotten() -> None:
    gates = Gates(hot=1)
    for index in range(1_000):
        hit(gates, f"once {index}", NOW)
    late = NOW + 62 * 60_000

    assert gates.at(window("once 5"), late).hits == 0
    gates.forget(late)
    assert len(gates.objects) == 0


def test_a_packed_table_holds_at_most_twice_what_counts() -> None:
    packed = _Packed()
    rng = random.Random(1)
    digests = [b"\0\0" + rng.randbytes(6) for _ in range(4_000)]  # one shard
    for step, digest in enumerate(digests):
        packed.put(digest, step << 24 | 1, (step - 100) << 24)

    assert len(packed) < 300
    assert packed.take(digests[-1]) == 3_999 << 24 | 1
    assert packed.take(digests[-1]) == 0
    assert packed.take(digests[0]) == 0


def test_bytes_across_two_digests_are_no_digest() -> None:
    packed = _Packed()
    for name in (b"\0\0aaaaaa", b"\0\0bbbbbb", b"\0\0cc\0\0cc"):
        packed.put(name, int.from_bytes(name), 0)

    assert packed.take(b"\0\0bb\0\0cc") == 0
    assert packed.take(b"\0\0cc\0\0cc") == int.from_bytes(b"\0\0cc\0\0cc")
    assert len(packed) == 2


def test_a_step_leaves_with_the_window_of_its_length() -> None:
    gates = Gates()
    hit(gates, "a", NOW, seconds=1)
    step_ms = window("a", 1).step_ms

    assert gates.at(window("a", 1), NOW + STEPS * step_ms).hits == 1
    assert gates.at(window("a", 1), NOW + (STEPS + 1) * step_ms).hits == 0
