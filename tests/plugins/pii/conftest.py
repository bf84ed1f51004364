"""Values of every kind, texts that hold them, and a plugin run without an engine."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from llmshield.call import AttachedFilter, Call, Channel, Edit, Reply, Stop, Text
from llmshield_plugins.pii import Pii

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "and",
    "then",
    "I",
    "went",
    "to",
    "school,",
    "where",
    "nobody",
    "(really)",
    "knew",
    "me:",
    "yes!",
    "AI",
    "US",
    "In",
    "2024",
    "we",
    "saw",
    "15",
    "items;",
    "version",
    "1.2.3",
    "of",
    "pkg@2",
    "at",
    "10:22:33",
    "cost",
    "1,234.56",
    "EUR.",
    "<b>Hi</b>",
    "`code`",
    "我的",
    "邮箱是",
    "谢谢",
    "Straße",
    "née",
    "Ünal",
    "42",
    "A1",
    "B2B",
    "March",
    "St",
    "Dr.",
    "12",
    "at",
    "dot",
    "(at)",
    "[dot]",
    "password",
    "is",
    "token:",
    "secret",
    "api",
    "key",
    "-----BEGIN",
    "x",
    "-----END",
    "http://example.com/a?b=c&d=e",
    "snake_case_name",
    "UPPER_CASE",
    "internationalization",
]

VALUES = (
    ("EMAIL_ADDRESS", "john.doe@example.com"),
    ("EMAIL_ADDRESS", "jürgen_o'neil+tag@mail.example.co.uk"),
    ("EMAIL_ADDRESS", "john (at) example (dot) com"),
    ("EMAIL_ADDRESS", "john%40example.com"),
    ("EMAIL_ADDRESS", "john&#64;example.com"),
    ("EMAIL_ADDRESS", "am9obi5kb2VAZXhhbXBsZS5jb20="),
    ("CREDIT_CARD", "4111 1111 1111 1111"),
    ("CREDIT_CARD", "5500-0055-5555-5559"),
    ("CREDIT_CARD", "3714 496353 98431"),
    ("CREDIT_CARD", "４１１１１１１１１１１１１１１１"),
    ("CREDIT_CARD", "4111\u200b1111\u200b1111\u200b1111"),
    ("IBAN_CODE", "GB29 NWBK 6016 1331 9268 19"),
    ("IBAN_CODE", "DE89370400440532013000"),
    ("US_SSN", "536-22-8726"),
    ("US_ITIN", "911-70-1234"),
    ("PHONE_NUMBER", "+1 (212) 555-0187"),
    ("PHONE_NUMBER", "+49 30 901820"),
    ("PHONE_NUMBER", "(212) 555-0187 x12"),
    ("PHONE_NUMBER", "01 23 45 67 89"),
    ("IP_ADDRESS", "192.168.17.42"),
    ("IP_ADDRESS", "2001:db8:85a3::8a2e:370:7334"),
    ("MAC_ADDRESS", "00:1A:2B:3C:4D:5E"),
    ("CRYPTO", "16Yeky6GMjeNkAiNcBY7ZhrLoMSgg1BoyZ"),
    ("CRYPTO", "0x52908400098527886E0F7030069857D2E4169EE7"),
    ("URL_WITH_CREDENTIALS", "postgres://app:pw0rd@db.internal:5432/main"),
    ("API_KEY", "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"),
    ("API_KEY", "ghp_abcdefghijklmnopqrstuvwxyz0123456789"),
    ("JWT", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJlc2ln"),
    ("PRIVATE_KEY", "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA1c7\n+9z5Pad7OejecsQ0b\n-----END RSA PRIVATE KEY-----"),
    ("STREET_ADDRESS", "1600 Pennsylvania Avenue NW, Washington, DC 20500"),
    ("STREET_ADDRESS", "Hauptstraße 12, 10115 Berlin"),
    ("UK_NINO", "AB 12 34 56 C"),
    ("ES_NIE", "X1234567L"),
    ("BR_CPF", "529.982.247-25"),
)  # fmt: skip


@pytest.fixture(scope="session")
def values() -> tuple[tuple[str, str], ...]:
    """(kind, value) of everything that stands on its own."""
    return VALUES


@pytest.fixture(scope="session")
def make_text() -> Callable[[random.Random], str]:
    """A text of words, values and separators, as odd as they come."""

    def make(rng: random.Random) -> str:
        parts: list[str] = []
        for _ in range(rng.randint(1, 14)):
            parts.append(rng.choice(VALUES)[1] if rng.random() < 0.3 else rng.choice(WORDS))
            parts.append(
                rng.choice(
                    (" ", " ", " ", " ", "\n", ", ", ". ", "", "\t", " - ", '"', ": ", "  ", "，", "/")
                )
            )
        return "".join(parts)

    return make


class Desk:
    """A call at a plugin's desk: its texts, what the plugin proposed, and a reply in pieces."""

    def __init__(self, plugin: Pii) -> None:
        self.plugin = plugin

    def call(self, *texts: str | tuple[str, str]) -> Call:
        """A call whose texts are `text` or `(role, text)`."""
        messages = [("user", t) if isinstance(t, str) else t for t in texts]
        body: dict[str, Any] = {"messages": [{"content": text} for _, text in messages]}
        call = Call(
            id="c1", dialect="openai_chat", family="openai", operation="generate", model="m", body=body
        )
        for number, (role, _) in enumerate(messages):
            kind = "metadata" if role == "metadata" else "prompt"
            role = "user" if role == "metadata" else role
            holder = body["messages"][number]
            call.texts.append(Text(call, role, holder, "content", ("messages", number, "content"), kind=kind))  # type: ignore[arg-type]
        return call

    def sent(self, call: Call) -> list[str]:
        """Run `pre_request`, apply what it proposed as an engine does, return the texts."""
        self.verdict = self.plugin.pre_request(call)
        edits = [p for p in call._proposals if isinstance(p, Edit)]
        for edit in sorted(edits, key=lambda e: (id(e.text), -e.start)):
            value = edit.text.value
            edit.text._write(value[: edit.start] + edit.new + value[edit.end :])
        return [text.value for text in call.texts]

    def filters(self, call: Call) -> list[AttachedFilter]:
        """Run `post_response`; the filters in the order of their phases."""
        reply = Reply(provider="p", model="m", dialect="openai_chat", stream=True)
        self.plugin.post_response(call, reply)
        return sorted(reply._filters, key=lambda f: f.phase != "guard")

    def got(self, call: Call, pieces: list[str], channel: Channel | None = None) -> str:
        """What the client sees of a reply in these pieces; ends with `!STOP` if a filter stopped it."""
        out = ""
        stages = [f.factory(channel or Channel("content")) for f in self.filters(call)]
        for number, piece in enumerate([*pieces, None]):
            text = piece or ""
            for stage in stages:
                if stage is None:
                    continue
                made = stage.feed(text) if text else ""
                if piece is None and not isinstance(made, Stop):
                    rest = stage.flush()
                    made = Stop(rest.block, made + rest.release) if isinstance(rest, Stop) else made + rest
                if isinstance(made, Stop):
                    return out + made.release + "!STOP"
                text = made
            out += text
            assert number >= 0
        return out


@pytest.fixture(scope="session")
def desk() -> Callable[..., Desk]:
    """`desk(entities=..., scan=...)`: a Desk with a plugin of these settings, without presidio."""

    def make(**settings: Any) -> Desk:
        settings.setdefault("presidio", False)
        return Desk(Pii(Pii.Settings(**settings)))

    return make
