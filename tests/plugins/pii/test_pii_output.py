"""What the guards of an answer share: numbers, and what they saw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmshield.call import Channel, Reply
from llmshield_plugins.pii.output import Output, word_of
from llmshield_plugins.pii.settings import EntityRule


@pytest.mark.parametrize(
    ("action", "word"), [("block", "block"), ("flag", "flag"), ("replace", "redact"), ("mask", "redact")]
)
def test_the_word_that_records_count(action: Any, word: str) -> None:
    assert word_of(EntityRule(action=action)) == word


async def test_both_guards_of_a_channel_number_together(desk: Callable[..., Any]) -> None:
    """A kind of one's own with the same name as one of the model's never gets a number twice."""
    nothing: Any = None
    at = desk(entities={"PERSON": "replace"}, recognisers=[{"kind": "PERSON", "deny": ["Blue Falcon"]}])
    await at.plugin.start(nothing)
    call = at.call("hello")
    output = Output(at.plugin, call, None)
    channel = Channel("content")
    guard, names = output.guard(channel), output.name_guard(channel)
    text = "Blue Falcon met Ingrid Solberg yesterday in the park."
    out = names.feed(str(guard.feed(text)) + str(guard.flush()))

    assert str(out) + str(names.flush()) == "<PERSON_1> met <PERSON_2> yesterday in the park."
    output.tell(Reply(provider="p", model="m", dialect="openai_chat", stream=True))
    assert [(p.type, p.action, p.count) for p in call._proposals] == [("PERSON", "redact", 2)]
