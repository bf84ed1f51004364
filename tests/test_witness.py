"""Nothing is asked and nothing answered before its record; what can't be recorded is refused, once."""

from types import SimpleNamespace

import pytest

from llmshield.errors import CallError, StoreUnavailable
from llmshield.witness import Gate, Witness


class Notary:
    """Writes what it is told to, until it is broken."""

    def __init__(self):
        self.ready = True
        self.broken = False
        self.log = []

    async def write(self, x, kind):
        if self.broken:
            raise StoreUnavailable("no room")
        self.log.append(kind)


class Client:
    started = False
    lingers = False

    def __init__(self, log):
        self.log = log

    async def start(self, status, headers):
        self.started = True
        self.log.append(status)

    async def send(self, data):
        self.log.append(data)

    async def end(self):
        self.log.append("end")

    def cut(self):
        self.log.append("cut")


@pytest.fixture
def notary():
    return Notary()


@pytest.fixture
def gate(notary):
    return Gate(Client(notary.log), Witness(notary), SimpleNamespace())


async def test_the_record_comes_before_the_head(gate, notary):
    await gate.start(200, {})
    await gate.send(b"a")
    await gate.end()
    gate.cut()

    assert notary.log == ["answer", 200, b"a", "end", "cut"]
    assert gate.started


async def test_what_has_no_record_is_not_sent_and_its_refusal_is(gate, notary):
    notary.broken = True

    with pytest.raises(CallError) as raised:
        await gate.start(200, {})

    assert raised.value.kind == "store_unavailable"
    assert not gate.started
    assert notary.log == []
    await gate.start(503, {})
    assert notary.log == [503]


async def test_nobody_is_asked_without_a_record(notary):
    witness = Witness(notary)
    await witness.ask(SimpleNamespace())
    notary.broken = True

    with pytest.raises(CallError, match="can't be written"):
        await witness.ask(SimpleNamespace())
    assert notary.log == ["ask"]


def test_who_comes_while_nothing_can_be_written_is_refused_at_the_door(notary):
    Witness(notary).admit()
    notary.ready = False

    with pytest.raises(CallError, match="can't be written"):
        Witness(notary).admit()


def test_a_client_behind_the_gate_may_linger(gate):
    gate.lingers = True

    assert gate._client.lingers
    assert gate.lingers
