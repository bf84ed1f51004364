"""What takes the place of a value: encrypted for holders of the key, or a surrogate that comes back."""

from __future__ import annotations

import base64
import os
import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from llmshield import vault
from llmshield.errors import SecretError
from llmshield_plugins.pii import Pii
from llmshield_plugins.pii.operators import encrypted, revealed

MAIL, CARD = "john.doe@corp.example", "4111 1111 1111 1111"


@pytest.fixture
def master(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    def new() -> str:
        key = base64.urlsafe_b64encode(os.urandom(32)).decode()
        monkeypatch.setenv(vault.VARIABLE, key)
        monkeypatch.delenv(vault.PREVIOUS, raising=False)
        return key

    new()
    return new


def test_who_has_the_key_reads_it_again(desk: Callable[..., Any], master: Callable[[], str]) -> None:
    at = desk(entities={"*": "encrypt"})
    (sent,) = at.sent(at.call(f"Write to {MAIL}, pay with {CARD}, then {MAIL}."))

    assert MAIL not in sent
    assert CARD not in sent
    tokens = re.findall(r"<EMAIL_ADDRESS:sealed:[A-Za-z0-9_-]+>", sent)
    assert len(tokens) == 2
    assert len(set(tokens)) == 1  # the same value, the same text, within a call
    assert revealed(sent) == f"Write to {MAIL}, pay with {CARD}, then {MAIL}."
    assert Pii.revealed("nothing <EMAIL_ADDRESS_1> here") == "nothing <EMAIL_ADDRESS_1> here"


@pytest.mark.parametrize("harm", ["another key", "another kind", "one letter"])
def test_nobody_else_does(harm: str, master: Callable[[], str]) -> None:
    token = encrypted("US_SSN", "536-22-8726")
    if harm == "another key":
        master()
    elif harm == "another kind":
        token = token.replace("US_SSN", "US_ITIN")
    else:
        token = token[:40] + ("A" if token[40] != "A" else "B") + token[41:]

    with pytest.raises(SecretError) as caught:
        revealed(f"see {token}")
    assert "536" not in str(caught.value)


async def test_without_a_key_the_start_is_refused(
    desk: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(vault.VARIABLE, raising=False)
    nothing: Any = None
    with pytest.raises(SecretError, match=vault.VARIABLE):
        await desk(entities={"US_SSN": "encrypt"}).plugin.start(nothing)


def test_a_surrogate_goes_out_and_the_value_comes_back(desk: Callable[..., Any]) -> None:
    at = desk(entities={"*": "fake"}, hash_key="k")
    call = at.call(("system", f"Owner {MAIL}"), f"I am {MAIL}, card {CARD}")
    first, second = at.sent(call)
    mail, card = first.removeprefix("Owner "), second.partition("card ")[2]

    assert mail in second
    assert re.fullmatch(r"[a-z.]+\d\d@example\.(com|net|org)", mail)
    assert at.sent(at.call(("system", f"Owner {MAIL}")))[0] == first  # stable over calls under one key
    for size in (1, 3, 400):
        answer = f"Dear {mail.title()}: {card}! Not {mail}x, not 9{card}."
        pieces = [answer[i : i + size] for i in range(0, len(answer), size)]
        assert at.got(call, pieces).startswith(f"Dear {MAIL}: {CARD}! Not ")
        assert at.got(call, pieces).count(CARD) == 1


def test_what_stands_in_the_clients_text_is_no_surrogate(desk: Callable[..., Any]) -> None:
    at = desk(entities={"IP_ADDRESS": "fake"}, hash_key="k", scan=["user"])
    taken = at.sent(at.call("from 10.1.2.3"))[0].removeprefix("from ")
    call = at.call("from 10.1.2.3", ("assistant", f"see host-{taken}.example"))
    (sent, _) = at.sent(call)

    assert sent != f"from {taken}"
    assert at.got(call, [f"{taken} is not {sent.removeprefix('from ')}."]) == f"{taken} is not 10.1.2.3."


def test_a_model_s_own_value_gets_a_surrogate_that_stays(desk: Callable[..., Any]) -> None:
    at = desk(entities={"EMAIL_ADDRESS": "fake"}, hash_key="k")
    call = at.call(f"I am {MAIL}")
    at.sent(call)
    got = at.got(call, ["Ask ann@corp.exa", "mple or ", MAIL, " now."])

    assert "ann@" not in got
    assert got.endswith(f" or {MAIL} now.")


def test_cuts_make_no_difference(desk: Callable[..., Any], make_text: Callable[[random.Random], str]) -> None:
    at = desk(entities={"*": "fake"}, hash_key="k")
    call = at.call(f"{MAIL} {CARD} 10.1.2.3")
    mail, card, address = re.fullmatch(r"(\S+) (.{19}) (\S+)", at.sent(call)[0]).groups()  # type: ignore[union-attr]
    for seed in range(60):
        rng = random.Random(seed)
        text = (
            make_text(rng)
            + rng.choice((mail, card, address, mail[:-1]))
            + rng.choice((" ", "", "x"))
            + make_text(rng)
        )
        size = rng.choice((1, 2, 5, 17))

        assert at.got(call, [text]) == at.got(call, [text[i : i + size] for i in range(0, len(text), size)])
