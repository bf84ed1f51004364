"""Wrong keys take the same time, however much of a right one they begin with (AUTH-06): found by their hash.

`|t| < 4.5` is Welch's t as dudect uses it (https://eprint.iacr.org/2016/1123): classes are measured in turn, slow
outliers are cut at the same point for both.
"""

import hashlib
import hmac
import math
import os
import random
import statistics
import string
import time
from pathlib import Path
from typing import Any

import pytest

from llmshield import client_keys
from llmshield.admin.access import Access
from llmshield.admin.problems import Problem
from llmshield.errors import CallError
from llmshield.identity import Identity
from llmshield.policy import Policy
from llmshield.testing import policy

TRIES = int(os.environ.get("LLMSHIELD_TIMING_TRIES", "100000"))
KEYS = ("tenant-key-" + "q7Zx81Lm" * 5, client_keys.make())


def the_policy() -> Policy:
    digests = ", ".join(f'"sha256:{hashlib.sha256(key.encode()).hexdigest()}"' for key in KEYS)
    return policy(
        f"identify: [virtual_key]\ntenants: {{acme: {{tier: pro, keys: [{digests}]}}}}\ntiers: {{pro: {{}}}}\n"
    )


def wrong(right: str, shared: int, rng: random.Random) -> str:
    """A key of the right length that begins with `shared` characters of the right one, and is wrong after that."""
    rest = "".join(rng.choice(string.ascii_letters + string.digits) for _ in range(len(right) - shared))
    if rest[:1] == right[shared : shared + 1]:
        rest = ("a" if rest[0] != "a" else "b") + rest[1:]
    return right[:shared] + rest


def refused(identity: Identity, key: str) -> None:
    try:
        identity.identify({"authorization": f"Bearer {key}"}, "", "192.0.2.1")
    except CallError:
        return
    raise AssertionError("a wrong key was taken")


@pytest.mark.parametrize("right", KEYS, ids=["any form", "our form"])
def test_keys_are_compared_by_their_hashes_alone(right: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No right key is in memory to be compared with; what is compared are two hashes, in constant time."""
    identity = Identity(the_policy())
    compared: list[tuple[Any, Any]] = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    digests = {hashlib.sha256(key.encode()).hexdigest() for key in KEYS}
    for shared in range(len(right)):
        refused(identity, wrong(right, shared, random.Random(shared)))

    assert compared == []  # another key has another hash: there is nothing to compare it with

    who = identity.identify({"authorization": f"Bearer {right}"}, "", "192.0.2.1")
    assert who.tenant == "acme"  # type: ignore[union-attr]
    assert [(len(a), a) for a, _ in compared] == [(64, hashlib.sha256(right.encode()).hexdigest())]
    assert {b for _, b in compared} <= digests


async def test_the_admin_token_is_compared_in_constant_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = "an-admin-token-of-some-length"
    access = Access(the_policy().admin, tmp_path, token)
    compared: list[int] = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(len(a) == len(b)) or real(a, b))
    for shared in range(len(token)):
        with pytest.raises(Problem):
            await access.officer(
                {"authorization": f"Bearer {wrong(token, shared, random.Random(shared))}"},
                f"192.0.2.{shared}",
            )

    assert compared == [True] * len(token)


def welch(one: list[int], other: list[int]) -> float:
    """Welch's t of two samples."""
    spread = statistics.variance(one) / len(one) + statistics.variance(other) / len(other)
    return (statistics.fmean(one) - statistics.fmean(other)) / math.sqrt(spread)


def timed(identity: Identity, first: list[str], second: list[str]) -> float:
    """The t between two classes of wrong keys, asked in turn."""
    took: tuple[list[int], list[int]] = ([], [])
    rng = random.Random(11)
    for pair in zip(first, second, strict=True):
        for which in rng.sample((0, 1), 2):
            key = (pair[which] + ".")[
                :-1
            ]  # a new string, warm in the cache, its hash not known: as from a socket
            begin = time.perf_counter_ns()
            refused(identity, key)
            took[which].append(time.perf_counter_ns() - begin)
    cut = statistics.quantiles([*took[0], *took[1]], n=20)[17]
    return welch(*([value for value in each if value <= cut] for each in took))


@pytest.mark.nightly
@pytest.mark.parametrize("right", KEYS, ids=["any form", "our form"])
def test_wrong_keys_take_the_same_time(right: str) -> None:
    """Equal prefixes from none to all but one character, against keys that share nothing: 100,000 tries for each
    form. One class beyond the limit is measured again: of 1,000,000 t-values of equal classes, 7 are above it."""
    identity = Identity(the_policy())
    rng = random.Random(5)
    floor = 6 if right.startswith(client_keys.PREFIX) else 0
    # The last six characters of a key of our form are its checksum, which whoever has the rest can compute: how long
    # that takes depends on the number, and says nothing.
    secret = len(right) - (6 if floor else 0)
    lengths = (1, secret // 4, secret // 2, secret - 8, secret - 1)
    each = TRIES // len(lengths) // 2
    found = {}
    for shared in lengths:
        for _ in range(2):
            second = [wrong(right, max(shared, floor), rng) for _ in range(each)]
            # As many different ones as the other class has (61 where only the last character differs): what is
            # asked again and again is faster, whatever it shares with a right key.
            pool = [wrong(right, floor, rng) for _ in range(len(set(second)))]
            first = [rng.choice(pool) for _ in range(each)]
            found[shared] = timed(identity, first, second)
            if abs(found[shared]) < 4.5:
                break
    print({shared: round(t, 2) for shared, t in found.items()})

    assert all(abs(t) < 4.5 for t in found.values()), found
