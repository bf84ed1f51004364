"""The injection plugin: judges a call's texts before it is sent, and the reply's where the policy asks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from llmshield import clock
from llmshield.call import Call, Channel, Reply, Text
from llmshield.errors import PluginError
from llmshield.hookspecs import Plugin
from llmshield.texts import CleanTexts
from llmshield.verdicts import Block

from .conversation import Conversation
from .judgement import Judgement, judge
from .reply import ReplyFilter
from .scan import Scanner
from .settings import InjectionSettings, Role

# A text from a tool is judged by scores of its own.
_ABOUT = {"system": b"", "user": b"", "assistant": b"", "tool": b"tool"}
# Findings reported of one call; a conversation of a thousand flagged messages says no more than ten.
_MAX_FINDINGS = 10


class Injection(Plugin):
    """Finds prompt injections; see the package's docstring for the manual."""

    Settings = InjectionSettings
    computes = True

    def __init__(self, settings: InjectionSettings) -> None:
        super().__init__(settings)
        self._scanner = Scanner(settings.rules())
        self._roles = frozenset(settings.scan)
        if "output" not in self._roles:
            self.idle = frozenset({"post_response"})
        self._clean = CleanTexts()
        self._longest = max((len(phrase) for phrase in settings.deny), default=0)

    @classmethod
    def scanner(cls, settings: InjectionSettings | None = None) -> JsonScanner:
        """What `llmshield scan --plugin injection` runs; without settings all roles but system are judged."""
        return JsonScanner(settings or InjectionSettings(scan=("user", "assistant", "tool", "output")))

    def pre_request(self, call: Call) -> Block | None:
        """Judge the texts of the scanned roles, each alone and joined; the first that is to be refused ends it."""
        texts = [text for text in call.prompts() if text.role in self._roles]
        if not texts:
            return None
        blocked = self._unknown(call, texts)
        if blocked is not None:
            return blocked
        if len(texts) > 1 or any(text.role == "assistant" for text in call.texts):
            return self._joined(call)
        return None

    def _unknown(self, call: Call, texts: Sequence[Text]) -> Block | None:
        """Judge what was not found clean before: of most calls, the last message."""
        clean = self._clean
        unknown: list[tuple[Text, str, bytes | None]] = []
        for text in texts:
            value = text.value
            key = clean.key(value, _ABOUT[text.role]) if len(value) >= CleanTexts.LEAST else None
            if key is None or key not in clean:
                unknown.append((text, value, key))
        if len(unknown) > 1 and self._scanner.is_plain([value for _, value, _ in unknown]):
            for _, _, key in unknown:
                if key is not None:
                    clean.add(key)
            return None
        return self._each(call, unknown)

    def _each(self, call: Call, texts: Sequence[tuple[Text, str, bytes | None]]) -> Block | None:
        reports = 0
        for text, value, key in texts:
            if clock.overdue(call.deadline):
                raise PluginError("the texts of this call were not all judged in time")
            judgement = self._scanner.scan(value, text.role, exact=False, deadline=call.deadline)
            if judgement.action == "allow":
                if key is not None:
                    self._clean.add(key)
                continue
            if judgement.action == "block" or reports < _MAX_FINDINGS:
                self._report(call, judgement, text)
                reports += 1
            if judgement.action == "block":
                return self._block(judgement, text.param)
        return None

    def _joined(self, call: Call) -> Block | None:
        """An attack cut into pieces over parts, messages and roles, each harmless by itself."""
        conversation = Conversation(
            [
                text
                for text in call.prompts()
                if not text.is_name and (text.role != "system" or "system" in self._roles)
            ],
            self._roles, self._longest,
        )  # fmt: skip
        judgement = judge(
            self._scanner.rules,
            conversation.across(self._scanner.scan(conversation.text, "joined", deadline=call.deadline).hits),
        )
        if judgement.action == "allow":
            return None
        text = conversation.owner(judgement.hits[0])
        self._report(call, judgement, text)
        return self._block(judgement, text.param) if judgement.action == "block" else None

    def _report(self, call: Call, judgement: Judgement, text: Text) -> None:
        call.report(judgement.families[0], judgement.action, score=judgement.score, place=text.place)

    def _block(self, judgement: Judgement, place: str) -> Block:
        family = judgement.families[0]
        return Block(f"Blocked by policy {self.name or 'injection'!r}: {family} in {place}.", param=place)

    def post_response(self, call: Call, reply: Reply) -> None:
        """Hang a filter on the reply when the policy scans the output."""
        if "output" in self._roles:
            reply.filter(self._filter, hold_back=ReplyFilter.HOLD)

    def _filter(self, channel: Channel) -> ReplyFilter:
        return ReplyFilter(self._scanner, lambda judgement: self._block(judgement, str(channel)))


class JsonScanner:
    """One text in, one JSON-ready verdict out; for the command line and for tests."""

    def __init__(self, settings: InjectionSettings) -> None:
        self._scanner = Scanner(settings.rules())
        self._roles = frozenset(settings.scan)

    def scan(self, text: str, role: Role = "user") -> dict[str, Any]:
        """Judge a text: action, score 0..1, spans in code points of `text`, families, milliseconds.

        A role that the settings do not scan gets its score and the action `allow`.
        """
        begun = time.perf_counter()
        judgement = self._scanner.scan(text, role)
        spans = [
            {
                "start": h.start,
                "end": h.end,
                "type": h.family,
                "score": round(h.score, 4),
                "id": h.signature,
                "view": h.view,
            }
            for h in judgement.hits
        ]
        return {
            "action": judgement.action if role in self._roles else "allow",
            "score": judgement.score,
            "spans": spans,
            "families": list(judgement.families),
            "ms": round((time.perf_counter() - begun) * 1_000, 3),
        }
